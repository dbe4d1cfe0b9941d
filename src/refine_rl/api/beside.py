"""compare_runs: two tuned models beside one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refine_rl.api import checks
from refine_rl.api.after import prompts_from
from refine_rl.api.arguments import Function, Row
from refine_rl.api.observing import showing
from refine_rl.api.records import Run, SideBySide
from refine_rl.api.runs import folder_of
from refine_rl.api.stops import once
from refine_rl.foreign.given import given as given_code
from refine_rl.pipeline.given import Given
from refine_rl.progress import Observer, Pause


def compare_runs(
    a: str | Path | Run,
    b: str | Path | Run,
    *,
    prompts: str | Path | Iterable[Row] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    judge: str | None = None,
    again: bool = False,
    name: str | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command line's --set
    rewards: Sequence[Function] = (),
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
    observer: Observer | None = None,
) -> SideBySide:
    """Sets two tuned models beside one another: the same held-out prompts, the same random draws, one reward,
    that of A's run. Answers that both runs have on record are not made again.

    Args:
        a: a run, whose reward, prompts and budget are taken.
        b: another run; or any model, by its folder or its name on the hub.
        prompts: a file, "recipe:NAME" or a list of other prompts; without it, A's held-out ones.
        samples: sampled answers a prompt.
        seed: of the draws; without it, A's.
        judge: "ENDPOINT/MODEL" of another judge than A's.
        again: answer anew, with other draws, although answers are on record.
        name: of the files in A's folder; without it, B's name.
        set: settings of `budget` and `endpoints` to change.
        rewards, environment, tools: the code that A was given from Python, given again.
        observer: hears the progress; without it, it is shown.

    Raises UserError where the two cannot be compared so, GuardStop at the end of the budget, MachineError
    where an endpoint failed, Interrupted after Ctrl-C.
    """
    code = Given(rewards=rewards, environment=environment, tools=tools)
    first = folder_of(a, "a")
    second = b.folder if isinstance(b, Run) else b
    checks.every(
        lambda: checks.path("b", second, "another run, or the name of a model"),
        lambda: checks.code(code),
        lambda: checks.observer(observer),
        lambda: checks.flag("again", again),
        lambda: checks.other_prompts(prompts),
        lambda: checks.evaluation(samples, seed, judge, None, None, name),
    )
    changes = checks.overrides(set)
    from refine_rl.pipeline.compare_runs import lay_out  # late: torch

    def work(pause: Pause) -> SideBySide:
        with prompts_from(prompts) as source, given_code(code.named), showing(None, observer) as shown:
            match = lay_out(
                first,
                second,
                source=source,
                samples=samples,
                judge=judge,
                seed=seed,
                again=again,
                overrides=changes,
                given=code,
            )
            shown.note(match.told())
            versus, file, page = match.play(name=name, observer=shown, pause=pause)
        return SideBySide(versus=versus, file=file, page=page)

    return once(work)
