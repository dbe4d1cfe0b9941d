"""What a caller's file looks like to a type checker; read by test_types.py, never run. `# is:` says what
`reveal_type` must show, `# wrong:` which call must be refused, by the code of the error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import refine_rl as refine


def brevity(prompt: str, completion: str) -> float:
    return 1.0 if len(completion) < 9 else 0.0


async def judged(completion: str) -> refine.Score:
    return refine.Score(value=1.0)


def look_up(word: str) -> int:
    """A number."""
    return len(word)


class Guess:
    def start(self, data: Mapping[str, Any], seed: int) -> str:
        return ""

    def step(self, reply: str) -> tuple[str, float, bool]:
        return "", 1.0, True


class Mine:
    def stage(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def step(self, metrics: Any, steps: int) -> None: ...


run = refine.train(
    "Be brief.",
    model="tiny",
    prompts=["one", {"prompt": "two", "limit": 3}],
    rewards=[brevity, judged],
    rules=[{"rule": "words", "max": 20}],
    run=Path("runs/mine"),
    observer=refine.Quiet(),
    grpo={"steps": 3},
    rollout={"group_size": 8},
)
reveal_type(run)  # is: Run
reveal_type(run.folder)  # is: Path
reveal_type(run.report)  # is: Path
reveal_type(run.model)  # is: Path
reveal_type(run.comparison.prompts)  # is: int
if run.comparison.difference is not None:
    reveal_type(run.comparison.difference.ci95)  # is: tuple[float, float]
refine.train(Path("task.toml"), writer="a/w", judge=["a/j", "a/k"], model={"name": "x", "rank": 8})
refine.train("t", prompts="hub:a/b", judge={"kind": "ruler"}, reward={"judges": ["a/b"]})
refine.train("Guess it.", environment=Guess, prompts=(f"round {n}" for n in range(9)))
refine.train("Look it up.", tools=[look_up], rewards=(brevity,))

refine.train(5)  # wrong: call-overload
refine.train("t", rewards=brevity)  # wrong: call-overload
refine.train("t", rewards=[1.0])  # wrong: list-item
refine.train("t", rules={"rule": "words"})  # wrong: call-overload
refine.train("t", environment=Guess())  # wrong: call-overload
refine.train("t", observer=object())  # wrong: call-overload
refine.train("t", prompts=5)  # wrong: call-overload
refine.train("t", "tiny")  # wrong: call-overload
refine.train()  # wrong: call-overload

several = refine.train("t", rewards=[brevity], seeds=3)
reveal_type(several)  # is: SeedsRun
reveal_type(several[0].comparison.prompts)  # is: int
reveal_type([one.folder for one in several])  # is: list[Path]
reveal_type(refine.resume_seeds(several, rewards=[brevity]))  # is: SeedsRun
refine.resume_seeds(run)  # wrong: arg-type

reveal_type(refine.resume("runs/a", step=3, set={"grpo.steps": 5}, rewards=[brevity]))  # is: Run
refine.resume(run, environment=Guess, observer=Mine())
refine.resume("runs/a", step="3")  # wrong: arg-type
refine.resume("runs/a", set=["grpo.steps=5"])  # wrong: arg-type
refine.resume("runs/a", form_step=3)  # wrong: call-arg

tuned = refine.sft([{"prompt": "a", "answer": "b"}], model="tiny", steps=5, budget={"hours": 1.0})
reveal_type(tuned)  # is: SFTRun
reveal_type(tuned.before)  # is: float | None
reveal_type(refine.resume_sft(tuned, steps=9))  # is: SFTRun
refine.resume(tuned)  # wrong: arg-type
reveal_type(refine.open_run("runs/a"))  # is: Run

planned = refine.plan("Be brief.", prompts="x.jsonl", rewards=[brevity], budget={"dollars": 3})
reveal_type(planned)  # is: Plan
reveal_type(planned.cost.high)  # is: float
reveal_type(planned.memory)  # is: tuple[float, float] | None
refine.plan("Be brief.", rewards="brevity")  # wrong: arg-type

found = refine.prompts("Be brief.", writer="a/w")
reveal_type(found)  # is: PromptList
reveal_type(found[0])  # is: Prompt
reveal_type(found[:2])  # is: tuple[Prompt, ...]
reveal_type([prompt.id for prompt in found])  # is: list[str]
reveal_type(found.save("x.jsonl"))  # is: Path
refine.prompts("Be brief.", writer=5)  # wrong: arg-type

tried = refine.check("Be brief.", answers=[{"prompt": "a", "answers": ["b"]}], rewards=[brevity])
reveal_type(tried)  # is: RewardCheck
reveal_type(tried.findings)  # is: list[str]
reveal_type(tried.result.groups[0].answers[0].score.value)  # is: float | None
refine.check("Be brief.", count="3")  # wrong: arg-type

again = refine.evaluate(run, prompts=["one"], samples=3, metrics=["rouge"], checkpoint="best", seed=4)
reveal_type(again)  # is: Evaluation
reveal_type(again.comparison)  # is: Comparison
reveal_type(again.file)  # is: Path
refine.evaluate(run, checkpoint="first")  # wrong: arg-type
refine.evaluate(run, samples=0.5)  # wrong: arg-type
refine.evaluate(tuned)  # wrong: arg-type

beside = refine.compare_runs(run, "runs/b", seed=3)
reveal_type(beside)  # is: SideBySide
reveal_type(beside.versus.comparison)  # is: Comparison
refine.compare_runs(run)  # wrong: call-arg

talk = refine.chat(run, checkpoint=4, temperature=0.7, max_tokens=20, system="Be kind.")
reveal_type(talk)  # is: Talk
reveal_type(talk("Hello."))  # is: str
reveal_type(talk(["Hello.", "Bye."]))  # is: list[str]
reveal_type(talk.base("Hello."))  # is: str
talk(5)  # wrong: call-overload
reveal_type(refine.generate(run, "Hello.", base=True))  # is: str
reveal_type(refine.generate(tuned, ["Hello."]))  # is: list[str]
refine.generate(run, 5)  # wrong: call-overload

reveal_type(refine.export(tuned, "out", merged=True, dtype="bfloat16"))  # is: Path
reveal_type(refine.export(run, gguf="a.gguf", outtype="q8_0"))  # is: Path
reveal_type(refine.export(run, hub="me/mine", merged=True))  # is: str
refine.export(run, "out", dtype="float16")  # wrong: call-overload


async def scores() -> None:
    found = await refine.score_group(
        [{"role": "user", "content": "Hi."}], ["Hello.", "Go away."], judge="a/j", kind="absolute"
    )
    reveal_type(found)  # is: list[Score]
    reveal_type(found[0].value)  # is: float | None
    await refine.score_group([], [], judge="a/j", kind="relative")  # wrong: arg-type
    await refine.score_group([], [])  # wrong: call-arg


try:
    refine.train("t")
except refine.GuardStop as stop:
    reveal_type(stop.guard)  # is: str
    reveal_type(stop.limit)  # is: float | None
except (
    refine.SettingsError,
    refine.UserError,
    refine.DiskError,
    refine.MachineError,
    refine.Interrupted,
) as error:
    reveal_type(error.exit_code)  # is: int
except refine.RefineError:
    raise

world: type[refine.Environment] = Guess
watcher: refine.Observer = Mine()
nobody: refine.Observer = object()  # wrong: assignment
refine.zscores  # wrong: attr-defined
