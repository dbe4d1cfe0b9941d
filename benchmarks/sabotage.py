"""Sabotages of small real runs: who notices, and at which step; Re:Fine beside two rival loops.

    python benchmarks/sabotage.py [--only length,adapter] [--loops refine,trl,ruler] [--steps 12]
                                  [--keep FOLDER] [--set KEY=VALUE ...]

Each sabotage breaks a training of the bundled model on the recipe `style` in one place: its reward (another
thing is paid for than is wanted, and the recipe's reward for content only watched), its judge (a server in
this process that answers as RULER's form has it), its model's files, or a part of the program (patched from
here; the rival loops of rival_loops.py, TRL's and an ART-style one, through their hooks). The faults of a
program are given half of the steps.

A cell has the loop's own words: that it was refused, a guard that stopped it, warnings, notes; what the
loop's whole run says too, word for word, is left out. Of the rivals also Python's warnings and log lines
count, and numbers that they print at each step (rewards, losses and times apart): one tells where, from a
step on to the end, it is outside of all that the loop's whole run printed by more than half of its range
there. That is generous: a person would have to know that range. "harmless": rewards and losses are the whole
run's to the last digit. The table, in Markdown, goes to standard output, a line as soon as it is known.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import re
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rival_loops
import torch
from rival_loops import Hooks, Judge, Ruler, Scores, TaskReward

from refine_rl.errors import GuardStop, UserError
from refine_rl.pipeline import grpo
from refine_rl.pipeline.train import run
from refine_rl.policy.origin import find_origin
from refine_rl.policy.protocol import Spoken
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import recipe_folder
from refine_rl.rewards.combine import CombinedReward
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import load_settings, override
from refine_rl.training import rows
from refine_rl.types import Prompt, Score, Trajectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from llm_server import LlmServer

SMALL = ("prompts.validation=12", "prompts.held_out=12", "grpo.prompts_per_step=4", "evaluate.bootstrap=200")
CONTENT = '{function = "rules.py:fidelity", weight = 0.0}'
Numbers = Mapping[str, Any]
"""What a loop puts on record of a step."""
Told = tuple[list[str], Sequence[Numbers]]
HACKS = """
def length(prompt, completion):
    return min(1.0, len(completion) / 120)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sabotage:
    """`functions` or a `judge` in the place of the recipe's reward; a `model` with other files; `breaking`
    breaks Re:Fine, `hooks` and `moved` (scores go to the next answer but so many) the rivals."""

    title: str
    functions: str = ""
    judge: Callable[[Sequence[float], Sequence[str]], Sequence[float]] | None = None
    model: Callable[[Path], None] | None = None
    breaking: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    hooks: Hooks = dataclasses.field(default_factory=Hooks)
    moved: int = 0
    sane: bool = True  # whether the recipe's sanity cases stand
    dtype: str = "float32"  # "auto" is what is faster at the moment

    @property
    def fault(self) -> bool:
        """Whether the program is at fault, not the reward."""
        return not self.functions and self.judge is None


# -- Re:Fine, broken ------------------------------------------------------------------------------------


def play_with(change: Callable[[Any], AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    """Sampling for training steps with a speaker that `change` gives for the while."""
    honest = grpo.play_of

    def play_of(settings: Settings, speaker: Any, **more: Any) -> Any:
        def rollouts(prompts: Sequence[Prompt], step: int) -> Iterator[Spoken]:
            with change(speaker) as other:
                said = list(honest(settings, other, **more)(prompts, step))
            yield from said

        return rollouts

    return patch.object(grpo, "play_of", play_of)


@contextlib.contextmanager
def moved_weights(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """What is trained, moved by a hundredth of its size (at least a thousandth)."""
    kept = [p.detach().clone() for p in parameters]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            size = max(1e-3, 1e-2 * float(p.abs().mean()))
            p.add_(size * torch.randn(p.shape, generator=draw).to(p))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)


@contextlib.contextmanager
def other_weights(speaker: Any) -> Iterator[Any]:
    with moved_weights([*speaker.trainable().values()]):
        yield speaker


def moved(by: int) -> AbstractContextManager[Any]:
    """Each answer gets the score of the one `by` places on in its group."""
    honest = CombinedReward.score_group

    async def score_group(
        self: CombinedReward, prompt: Prompt, trajectories: Sequence[Trajectory]
    ) -> list[Score]:
        scores = await honest(self, prompt, trajectories)
        return [*scores[by:], *scores[:by]]

    return patch.object(CombinedReward, "score_group", score_group)


def prompts_trained_on() -> AbstractContextManager[Any]:
    honest = rows.token_batch

    def token_batch(trajectories: Sequence[Trajectory]) -> Any:
        batch = honest(trajectories)
        everything = batch.attention.bool().clone()
        everything[:, 0] = False
        return dataclasses.replace(batch, trainable=everything)

    return patch.object(rows, "token_batch", token_batch)


# -- the same faults, for the rivals --------------------------------------------------------------------


def with_prompts(batch: dict[str, Any]) -> dict[str, Any]:
    """All of a prompt but its first token goes to the completion."""
    first = {name: batch[name][:, :1] for name in ("prompt_ids", "prompt_mask")}
    wider = {
        f"completion_{what}": torch.cat([batch[f"prompt_{what}"][:, 1:], batch[f"completion_{what}"]], dim=1)
        for what in ("ids", "mask")
    }
    found = {**batch, **first, **wider}
    if (said := batch.get("logprobs")) is not None:  # nobody sampled a prompt
        nobody = torch.zeros(said.shape[0], batch["prompt_ids"].shape[1] - 1).to(said)
        found["logprobs"] = torch.cat([nobody, said], dim=1)
    return found


def pad_is_eos(tokenizer: Any) -> Any:
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def of_peft(change: str) -> Callable[[Any], AbstractContextManager[Any]]:
    def sampling(model: Any) -> AbstractContextManager[Any]:
        if change == "adapter":
            return model.disable_adapter()  # type: ignore[no-any-return]
        return moved_weights([p for p in model.parameters() if p.requires_grad])

    return sampling


# -- models and judges ----------------------------------------------------------------------------------


def _changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")


def padded_with_eos(folder: Path) -> None:
    _changed(folder / "tokenizer_config.json", lambda c: c.update(pad_token=c["eos_token"]))
    for name in ("config.json", "generation_config.json"):
        _changed(folder / name, lambda c: c.update(pad_token_id=c["eos_token_id"]))


def without_a_stop(folder: Path) -> None:
    """A template that puts nothing behind an answer, and a stop token that the model never learned to say."""
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8").replace("<|im_end|>", ""), encoding="utf-8")
    _changed(folder / "tokenizer_config.json", lambda c: c.update(eos_token=c["pad_token"]))
    for name in ("config.json", "generation_config.json"):
        _changed(folder / name, lambda c: c.update(eos_token_id=c["pad_token_id"]))


def permuted(true: Sequence[float], said: Sequence[str]) -> list[float]:
    """An honest judge whose scores come back under the next id."""
    return [*true[1:], *true[:1]]


SABOTAGES: Mapping[str, Sabotage] = {
    "whole": Sabotage(title="none"),
    "style": Sabotage(title="style alone is paid for", functions='"rules.py:style"'),
    "length": Sabotage(title="length is paid for", functions='"hacks.py:length"'),
    "honest": Sabotage(title="none: an honest judge", judge=lambda true, said: true),
    "colons": Sabotage(
        title="a judge that loves “:”", judge=lambda true, said: [min(1.0, s.count(":") / 5) for s in said]
    ),
    "ids": Sabotage(title="the judge's ids permuted", judge=permuted),
    "weights": Sabotage(
        title="sampler with other weights",
        breaking=lambda: play_with(other_weights),
        hooks=Hooks(sampling=of_peft("weights")),
    ),
    "adapter": Sabotage(
        title="adapter off in the sampler",
        breaking=lambda: play_with(lambda speaker: speaker.reference()),
        hooks=Hooks(sampling=of_peft("adapter")),
    ),
    "adapter16": Sabotage(
        title="adapter off in the sampler, in bfloat16",
        dtype="bfloat16",
        breaking=lambda: play_with(lambda speaker: speaker.reference()),
        hooks=Hooks(sampling=of_peft("adapter")),
    ),
    "pad": Sabotage(title="pad is eos", model=padded_with_eos, hooks=Hooks(tokenizer=pad_is_eos)),
    "template": Sabotage(title="a template without a stop token", model=without_a_stop),
    "prompts": Sabotage(
        title="prompt tokens in the loss", breaking=prompts_trained_on, hooks=Hooks(rows=with_prompts)
    ),
    "sanity": Sabotage(title="reward of another row", breaking=lambda: moved(1), moved=1),
    "rows": Sabotage(
        title="the same, without the recipe's sanity cases", sane=False, breaking=lambda: moved(1), moved=1
    ),
}


class Served:
    """A judge of the task behind an endpoint: it knows the recipe's reward of each answer."""

    def __init__(self, honest: Settings) -> None:
        self._true, self._one = TaskReward(honest), threading.Lock()  # requests come side by side
        self._prompts = {p.text: p for p in load_prompts(honest)[0]}
        self._answers: Callable[[Sequence[float], Sequence[str]], Sequence[float]] = lambda true, said: true
        self.server = LlmServer(brain=self._brain)

    @contextlib.contextmanager
    def answering(self, judge: Callable[[Sequence[float], Sequence[str]], Sequence[float]]) -> Iterator[None]:
        self._answers = judge
        yield

    def _brain(self, body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        members = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
        messages = [json.loads(content) for _, content in members]
        context = re.search(r"<context>(.*?)</context>", text, re.S)
        asked = json.loads(context[1]) if context else messages[0][:-1]
        said = [m[-1]["content"] for m in messages]
        with self._one:
            true = self._true(self._prompts[asked[-1]["content"]], said)
        scores = self._answers(true, said)
        return json.dumps(
            {
                "scores": [
                    {"trajectory_id": name, "explanation": "-", "score": round(score, 4)}
                    for (name, _), score in zip(members, scores, strict=True)
                ]
            }
        )


# -- who says what --------------------------------------------------------------------------------------


class Bench:
    """Runs of one recipe's copy in `place`. `whole` has what each loop says when nothing is broken."""

    def __init__(self, place: Path, steps: int, changes: Sequence[str] = ()) -> None:
        self.place, self.steps, self.small = place.absolute(), steps, (*SMALL, *changes)
        self.task = place / "task"
        shutil.copytree(recipe_folder("style"), self.task, dirs_exist_ok=True)
        (self.task / "hacks.py").write_text(HACKS, encoding="utf-8")
        self.served = Served(override(load_settings(self.task / "task.toml"), list(self.small)))

    def settings(self, name: str, sabotage: Sabotage, steps: int) -> Settings:
        changes = [*self.small, f"grpo.steps={steps}", f"grpo.validate_every={max(1, steps // 3)}"]
        changes += [f"model.dtype={sabotage.dtype}"]
        if not sabotage.sane:
            changes += ["reward.sanity=[]"]
        if sabotage.functions:
            changes += [f"reward.functions=[{sabotage.functions}, {CONTENT}]", "reward.sanity=[]"]
        if sabotage.judge is not None:
            url = self.served.server.base_url
            changes += [f"reward.functions=[{CONTENT}]", "reward.sanity=[]"]
            changes += ['reward.judges=["scripted/judge"]', "judge.kind=ruler"]
            changes += [f"endpoints.scripted={{base_url = '{url}', key_env = '', cache = false}}"]
        if sabotage.functions or sabotage.judge is not None:
            changes += ['evaluate.on_drift="warn"']
        if sabotage.model is not None:
            folder = self.place / f"model-{name}"
            if not folder.exists():
                tiny = find_origin(load_settings(self.task / "task.toml").model.source).base
                shutil.copytree(tiny, folder)
                sabotage.model(folder)
            changes += [f"model.name='{folder}'"]
        return override(load_settings(self.task / "task.toml"), changes)

    def cell(self, loop: str, name: str, sabotage: Sabotage) -> str:
        steps = max(2, self.steps // 2) if sabotage.fault and name != "whole" else self.steps
        plain = Sabotage(title="none", dtype=sabotage.dtype)
        whole, numbers = self.tried(loop, f"whole-{plain.dtype}", plain, steps)
        if name == "whole":
            return "; ".join(whole) or "nothing"
        said, own = self.tried(loop, name, sabotage, steps)
        if loop != "refine" and own and numbers:
            said = [*said, *stands_out(own, numbers)]
        if own and numbers and earned(own) == earned(numbers):
            return "; ".join(["harmless", *(s for s in said if s not in whole)])
        return "; ".join(s for s in said if s not in whole) or f"nothing in {steps} steps"

    def tried(self, loop: str, name: str, sabotage: Sabotage, steps: int) -> Told:
        """What is said, and each step's numbers (none where the loop broke off); from a file in `place` where
        that has been made before."""
        made = self.place / f"{loop}-{name}-{steps}.json"
        if not made.exists():
            settings = self.settings(name, sabotage, steps)
            with self.served.answering(sabotage.judge or (lambda true, said: true)):
                if loop == "refine":
                    told = refined(self.place / f"{name}-{steps}", settings, sabotage)
                else:
                    told = rival(loop, settings, sabotage, self.served.server.base_url)
            made.write_text(json.dumps(told), encoding="utf-8")
        said, numbers = json.loads(made.read_text(encoding="utf-8"))
        return said, numbers


def refined(path: Path, settings: Settings, sabotage: Sabotage) -> Told:
    """Re:Fine's guards, warnings and notes, with step and first sentence, and its metrics."""
    shutil.rmtree(path, ignore_errors=True)
    folder = RunFolder.create(path, settings)
    try:
        with sabotage.breaking(), contextlib.suppress(GuardStop):
            run(folder)
    except UserError as error:
        return [f"refuses: {first_sentence(str(error))}"], []
    kinds = {"guard": "stops", "warning": "warns", "note": "tells"}
    said = [
        f"{kinds[e['kind']]} `{e['name']}`{_at(e['step'])}: {first_sentence(e['text'])}"
        for e in folder.events()
        if e["kind"] in kinds and e["name"] != "parameters"
    ]
    return said, folder.metrics() if folder.comparison() is not None else []


def first_sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)", " ".join(text.split()))[0]


def _at(step: int | None) -> str:
    """A guard's text has its own."""
    return "" if step is None else f" (step {step})"


@dataclass(kw_only=True, slots=True)
class Moved:
    """Each answer gets the score of the one `by` places on."""

    scores: Scores
    by: int

    @property
    def calls(self) -> int:
        return self.scores.calls

    def __call__(self, prompt: Prompt, answers: Sequence[str]) -> list[float | None]:
        found = [*self.scores(prompt, answers)]
        return [*found[self.by :], *found[: self.by]]


def rival(loop: str, settings: Settings, sabotage: Sabotage, url: str) -> Told:
    """What a rival says by itself, and the numbers that it prints."""
    judged = sabotage.judge is not None
    scores: Scores = Ruler(judge=Judge(url, settings.task)) if judged else TaskReward(settings)
    if sabotage.moved:
        scores = Moved(scores=scores, by=sabotage.moved)
    hooks = sabotage.hooks
    if sabotage.model is not None:
        hooks = dataclasses.replace(hooks, model=Path(settings.model.name))
    plain = override(settings, ["model.name=tiny"])
    found, log = Heard(), list[Numbers]()
    train = {"trl": rival_loops.trl_with_judge, "ruler": rival_loops.ruler_loop}[loop]
    with found:
        try:
            log += train(plain, scores, looks=Blind(plain), hooks=hooks, dtype=sabotage.dtype).log
        except Exception as error:
            found.said.append(f"stops: {type(error).__name__}: {first_sentence(str(error))}")
    return list(dict.fromkeys(found.said)), log


class Blind:
    """In the place of `Looks`: only a loop's own words count here."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.prompts = settings, load_prompts(settings)[0]

    def of(self, split: str, model: Any = None) -> float:
        return 0.0


class Heard(logging.Handler):
    """Python's warnings and log lines from level WARNING on, while inside."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._stack = contextlib.ExitStack()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"logs: {first_sentence(record.getMessage())}")

    def __enter__(self) -> Heard:
        for name in (None, "transformers", "trl", "accelerate"):
            logger = logging.getLogger(name)
            logger.addHandler(self)
            self._stack.callback(logger.removeHandler, self)
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: self.said.append(f"warns: {first_sentence(str(message))}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


EARNED = re.compile(r"reward|loss|grad_norm")
NO_SIGN = re.compile(
    r"reward(?!.*zero_std)|loss|learning_rate|grad_norm|step|epoch|time|runtime|second|num_tokens|flos"
)


def stands_out(log: Sequence[Numbers], whole: Sequence[Numbers]) -> list[str]:
    """The printed numbers that leave the range of the whole run for good, with the step from which on."""
    found = []
    for key in dict.fromkeys(k for line in whole for k in line if not NO_SIGN.search(k)):
        usual = [line[key] for line in whole if isinstance(line.get(key), int | float)]
        values = [(line["step"], line[key]) for line in log if isinstance(line.get(key), int | float)]
        if not usual or not values:
            continue
        low, high = min(usual), max(usual)
        slack = (high - low) / 2
        inside = [step for step, value in values if low - slack <= value <= high + slack]
        since = next((step for step, _ in values if not inside or step > max(inside)), None)
        if since is not None:
            found.append(
                f"prints `{key}` {values[-1][1]:.3g} (from step {since}; whole: {low:.3g} to {high:.3g})"
            )
    return found


def earned(log: Sequence[Numbers]) -> list[list[tuple[str, Any]]]:
    """Rewards and losses of each step."""
    return [sorted((k, v) for k, v in line.items() if EARNED.search(k)) for line in log]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SABOTAGES))
    parser.add_argument("--loops", default="refine,trl,ruler")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument(
        "--keep", type=Path, help="a folder for what is run; what has ended there is not run again"
    )
    parser.add_argument("--set", action="append", default=[], help="a setting of all runs, KEY=VALUE")
    args = parser.parse_args()
    loops = args.loops.split(",")
    heads = {"refine": "Re:Fine", "trl": "TRL", "ruler": "ART-style loop"}
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(args.keep or Path(temporary), args.steps, args.set)
        print("| sabotage | " + " | ".join(heads[loop] for loop in loops) + " |")
        print("|---" * (1 + len(loops)) + "|")
        for name in args.only.split(","):
            cells = [bench.cell(loop, name, SABOTAGES[name]) for loop in loops]
            row = [SABOTAGES[name].title, *(cell.replace("|", "\\|") for cell in cells)]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
