"""evaluate, chat, generate, export: after a training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from refine_rl.api import checks
from refine_rl.api.arguments import Function, Row, rows_of, source_of
from refine_rl.api.before import listed
from refine_rl.api.observing import showing
from refine_rl.api.records import Evaluation, Run, SFTRun
from refine_rl.api.runs import folder_of, opened_run
from refine_rl.api.stops import in_own_words, once
from refine_rl.errors import UserError, no_file
from refine_rl.foreign.given import given as given_code
from refine_rl.pipeline.given import Given, require_given
from refine_rl.progress import Observer, Pause
from refine_rl.run import RunFolder

if TYPE_CHECKING:
    from refine_rl.pipeline.chat import Chat

Checkpoint = int | Literal["best", "last"]


def evaluate(
    run: str | Path | Run,
    *,
    prompts: str | Path | Iterable[Row] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    judge: str | None = None,
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
    rivals: Sequence[str] | None = None,
    probes: bool | None = None,
    checkpoint: Checkpoint | None = None,
    name: str | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command line's --set
    rewards: Sequence[Function] = (),
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
    observer: Observer | None = None,
) -> Evaluation:
    """Compares base and tuned again: with fresh draws, on other prompts, by another judge, by other metrics.
    The comparison stands in the run's folder, and the run's report shows it.

    Args:
        run: a run; one that is not finished with `checkpoint`.
        prompts: a file, "recipe:NAME" or a list of other prompts; without it, the held-out ones.
        samples: sampled answers a prompt.
        seed: of the draws; another one than the run's. Without it, the next.
        judge: "ENDPOINT/MODEL" of another judge than the run's.
        metrics: of the greedy answers: "bleu", "chrf", "rouge", "bertscore", "perplexity", "length",
            "win_rate".
        reference: the key of the prompts' data that has the reference answers.
        rivals: other ways to the same end: "prompt", "best_of_n", "sft"; made where they are not yet.
        probes: whether to look for what changed outside of the task, forgetting; without it, as the run did.
        checkpoint: "best", "last" or a step, in the place of the tuned model.
        name: of the file in evaluations/.
        set: settings of `budget` and `endpoints` to change, `evaluate.best_of` and `evaluate.rival_calls`.
        rewards, environment, tools: the code that was given to `train`, given again.
        observer: hears the progress; without it, it is shown.

    Raises UserError for what the arguments or the run do not allow; GuardStop at the end of the budget,
    MachineError where an endpoint failed, Interrupted after Ctrl-C.
    """
    code = Given(rewards=rewards, environment=environment, tools=tools)
    path = folder_of(run)
    checks.every(
        lambda: checks.code(code),
        lambda: checks.observer(observer),
        lambda: checks.checkpoint(checkpoint),
        lambda: checks.other_prompts(prompts),
        lambda: checks.evaluation(samples, seed, judge, metrics, reference, name, probes),
        lambda: checks.texts("rivals", rivals, 'a list, as in rivals=["best_of_n"]'),
    )
    how: dict[str, Any] = {
        "samples": samples,
        "seed": seed,
        "judge": judge,
        "reference": reference,
        "probes": probes,
    }
    for key, names in {"metrics": metrics, "rivals": rivals}.items():
        how[key] = None if names is None else list(names)
    how["overrides"] = checks.overrides(set)
    folder = opened_run(path)
    require_given(folder, code, verb="evaluate")

    def work(pause: Pause) -> Evaluation:
        with showing(None, observer) as shown:
            return _evaluated(folder, code, prompts, checkpoint, name, shown, pause, how)

    return once(work)


def _evaluated(
    folder: RunFolder,
    code: Given,
    prompts: str | Path | Iterable[Row] | None,
    checkpoint: Checkpoint | None,
    name: str | None,
    observer: Observer,
    pause: Pause,
    how: Mapping[str, Any],
) -> Evaluation:
    from refine_rl.pipeline.evaluate import evaluate_again  # late: torch
    from refine_rl.pipeline.weights import choose_weights

    weights = choose_weights(folder, None if checkpoint is None else str(checkpoint))
    usual = "eval" if checkpoint is None else f"eval-step-{weights.trained.step}"
    with prompts_from(prompts) as source, given_code(code.named):
        comparison, file = evaluate_again(
            folder,
            source=source,
            weights=weights,
            name=name or usual,
            given=code,
            observer=observer,
            pause=pause,
            **how,
        )
    return Evaluation(folder=folder.path, file=file, comparison=comparison)


@contextlib.contextmanager
def prompts_from(prompts: str | Path | Iterable[Row] | None) -> Iterator[str | None]:
    """Where the prompts are to be read from; None: the run's held-out ones."""
    if prompts is None:
        yield None
        return
    if isinstance(prompts, str | Path):
        source = source_of(str(prompts))
        file = Path(source.removeprefix("file:"))
        if source.startswith("file:") and not file.is_file():
            raise UserError(f"prompts={str(prompts)!r}: {no_file(file)}.")
        yield source
        return
    rows = [{"prompt": row} if isinstance(row, str) else row for row in prompts]
    with listed(rows_of(rows, "prompts")) as source:
        yield source


class Talk:
    """The tuned model of a run, loaded: `talk("...")` is its answer, `talk.base("...")` the untrained
    model's. Every message stands alone, as in training; several in a list are answered together. In a run
    with a world, a prompt's id sets that prompt's world going, and the answer is all that happens in it."""

    def __init__(self, chat: Chat, name: str) -> None:
        self._chat = chat
        self._name = name

    @overload
    def __call__(self, message: str) -> str: ...
    @overload
    def __call__(self, message: list[str] | tuple[str, ...]) -> list[str]: ...
    def __call__(self, message: str | list[str] | tuple[str, ...]) -> str | list[str]:
        """The tuned model's answer to a message, or its answers to several. Raises UserError for a message
        that is too long."""
        return self._said(message, base=False)

    @overload
    def base(self, message: str) -> str: ...
    @overload
    def base(self, message: list[str] | tuple[str, ...]) -> list[str]: ...
    def base(self, message: str | list[str] | tuple[str, ...]) -> str | list[str]:
        """The same of the model before training."""
        return self._said(message, base=True)

    def _said(self, message: str | list[str] | tuple[str, ...], *, base: bool) -> str | list[str]:
        checks.messages(message)
        texts = [message] if isinstance(message, str) else list(message)
        try:
            found = self._chat.replies(texts, base=base)
        except UserError as mistake:
            raise in_own_words(mistake) from None
        return found[0] if isinstance(message, str) else found

    def __repr__(self) -> str:
        return f"Talk with {self._name}: talk('...') answers, talk.base('...') as before training"


def chat(
    run: str | Path | Run | SFTRun,
    *,
    checkpoint: Checkpoint | None = None,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    system: str | None = None,
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
) -> Talk:
    """Loads the tuned model of a run, to talk to it: of what comes back, `talk`, the answer to a
    message is `talk("Hello.")`.

    Args:
        run: a run with a tuned model; one without with `checkpoint`.
        checkpoint: "best", "last" or a step, in the place of the tuned model.
        temperature: of the sampling; 0 is the most likely answer.
        max_tokens: an answer is cut here; without it, at the run's limit.
        system: another system message than the run's; "" is none.
        environment, tools: those that were given to `train`, given again.

    Raises UserError for what the arguments or the run do not allow.
    """
    path = folder_of(run)
    checks.every(
        lambda: checks.checkpoint(checkpoint),
        lambda: checks.real("temperature", temperature, least=0.0),
        lambda: checks.number("max_tokens", max_tokens, least=1),
        lambda: checks.text("system", system or None, 'a text; "" is none'),
        lambda: checks.environment(environment),
        lambda: checks.tools(tools),
    )
    folder = opened_run(path)
    # No reward is needed to answer: whatever functions there were, they are not asked for.
    code = Given(environment=environment, tools=tools)
    require_given(folder, code, scores=False, verb="generate")
    from refine_rl.pipeline.chat import open_chat  # late: torch
    from refine_rl.pipeline.weights import choose_weights

    def work(pause: Pause) -> Talk:
        with given_code(code.named):
            weights = choose_weights(folder, None if checkpoint is None else str(checkpoint))
            opened = open_chat(folder, weights, temperature=temperature, max_tokens=max_tokens, system=system)
        trained = "the tuned model" if weights.tuned else weights.trained.text(folder.planned_steps())
        return Talk(opened, f"{trained} of {folder.path}")

    return once(work)


@overload
def generate(
    run: str | Path | Run | SFTRun,
    prompts: str,
    *,
    base: bool = ...,
    checkpoint: Checkpoint | None = ...,
    temperature: float = ...,
    max_tokens: int | None = ...,
    system: str | None = ...,
    environment: type[Any] | None = ...,
    tools: Sequence[Function] = ...,
) -> str: ...
@overload
def generate(
    run: str | Path | Run | SFTRun,
    prompts: list[str] | tuple[str, ...],
    *,
    base: bool = ...,
    checkpoint: Checkpoint | None = ...,
    temperature: float = ...,
    max_tokens: int | None = ...,
    system: str | None = ...,
    environment: type[Any] | None = ...,
    tools: Sequence[Function] = ...,
) -> list[str]: ...
def generate(
    run: str | Path | Run | SFTRun,
    prompts: str | list[str] | tuple[str, ...],
    *,
    base: bool = False,
    checkpoint: Checkpoint | None = None,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    system: str | None = None,
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
) -> str | list[str]:
    """The tuned model's answer to a prompt, or its answers to several; the model is loaded anew each time
    (`chat` keeps it).

    Args:
        run: a run with a tuned model; one without with `checkpoint`.
        prompts: a text, or several; in a run with a world, ids of its prompts.
        base: the untrained model answers instead.
        checkpoint, temperature, max_tokens, system, environment, tools: as in `chat`.

    Raises what `chat` raises.
    """
    checks.messages(prompts)
    checks.flag("base", base)
    talk = chat(
        run,
        checkpoint=checkpoint,
        temperature=temperature,
        max_tokens=max_tokens,
        system=system,
        environment=environment,
        tools=tools,
    )
    return talk.base(prompts) if base else talk(prompts)
