"""The search for a system prompt with the library `gepa`: our trials are its metric, an LLM of the run its
reflecting one.

Only what `gepa` needs goes to it: prompts' texts, answers, and what the reward said of them. Every trial and
every text of the LLM is on record once it is there; the search draws from a seed, and so goes on after a kill
by doing again, at no cost, what was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_rl.errors import MachineError, RefineError, SettingsError
from refine_rl.llm.client import CallFailed, Client, Request
from refine_rl.llm.texts import fill, load_text
from refine_rl.pipeline.rivals.plain import Found
from refine_rl.pipeline.rivals.trial import Trial, Tried
from refine_rl.pipeline.rivals.tries import key_of
from refine_rl.types import Message, Prompt, mean_of

if TYPE_CHECKING:
    from gepa import EvaluationBatch

PURPOSE = "rival prompt"
"""Stands in the ledger."""
WORDS = 200
"""Of a system prompt, at most, as the LLM is asked."""
PATIENCE = 8
"""Rounds without a better text after which the search ends."""
_PART = "system"


def require_gepa() -> None:
    """Raises SettingsError where the library is not installed."""
    try:
        gepa_version()
    except metadata.PackageNotFoundError:
        raise SettingsError(
            'evaluate.rivals: "prompt" is searched by gepa, which is not installed: '
            'pip install "refine-rl[gepa]"'
        ) from None


def gepa_version() -> str:
    """Raises PackageNotFoundError where it is not installed."""
    return metadata.version("gepa")


def gepa_search(
    trial: Trial, first: str, measured: Sequence[Prompt], shown: Sequence[Prompt], *, minibatch: int
) -> Found:
    """Texts from `first` on, each measured on all prompts `measured`; from answers to the prompts `shown`, a
    `minibatch` at a time, the LLM writes another one. It ends where the next round could have more answers
    scored than rival_calls allows, or after 8 rounds without a better text.

    Raises MachineError where the LLM does not answer, and what a trial raises.
    """
    from gepa import optimize  # late: an extra
    from gepa.utils import NoImprovementStopper

    as_they_are = trial.mean(None, measured)
    ring = trial.ring
    work = ring.work
    assert work.connections is not None  # a run that names an LLM has them
    adapter = _Adapter(trial=trial, client=work.connections.client(ring.settings.reflects))
    round_ = trial.each * (2 * minibatch + len(measured))

    def spent(state: object) -> bool:
        return adapter.failure is not None or ring.tries.answers + round_ > ring.settings.rival_calls

    top = None if trial.relative else work.scorers.validation.top
    try:
        result = optimize(
            seed_candidate={_PART: first},
            trainset=list(shown),
            valset=list(measured),
            adapter=adapter,
            reflection_lm=adapter.reflect,
            reflection_minibatch_size=min(minibatch, len(shown)),
            reflection_prompt_template=_template(ring.settings.task),
            skip_perfect_score=top is not None,
            perfect_score=top if top is not None else 1.0,
            stop_callbacks=[spent, NoImprovementStopper(PATIENCE)],
            logger=_Silent(),
            track_best_outputs=False,
            seed=ring.settings.grpo.seed,
        )
    except RefineError:
        raise
    if adapter.failure is not None:
        raise adapter.failure
    texts = [candidate[_PART] for candidate in result.candidates]
    tried = {None: as_they_are, **{text: trial.mean(text, measured) for text in texts if trial.fits(text)}}
    return Found(tried=tuple(tried.items()))


def _template(task: str) -> str:
    text = load_text(str(Path(__file__).parent / "texts"), "reflection.txt")
    return fill(text, {"task": task.strip(), "words": WORDS})


@dataclass
class _Adapter:
    """What gepa asks for: how a candidate does on prompts, and what the LLM is shown of it. `failure` is what
    ended the search: gepa goes on after an error of its own proposals, and ours are not its own."""

    trial: Trial
    client: Client
    failure: RefineError | None = None
    asked: dict[str, int] = field(default_factory=dict)
    lowest: float = 0.0
    propose_new_texts = None  # gepa's own way, by `reflect`

    def evaluate(
        self, batch: list[Prompt], candidate: Mapping[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[tuple[Prompt, Tried], Tried]:
        from gepa import EvaluationBatch

        tried = self._tried(candidate[_PART], batch)
        known = [t.value for t in tried if t.value is not None]
        # One missing score among some says nothing of the text; too many of them have raised.
        usual = mean_of(known) if known else self.lowest - 1.0
        self.lowest = min(self.lowest, *known, self.lowest)
        return EvaluationBatch(
            outputs=tried,
            scores=[usual if t.value is None else t.value for t in tried],
            trajectories=list(zip(batch, tried, strict=True)) if capture_traces else None,
        )

    def _tried(self, text: str, prompts: Sequence[Prompt]) -> list[Tried]:
        if self.failure is not None:
            raise self.failure
        if not self.trial.fits(text):
            why = "The system prompt is too long: the model has no room for it. Write a much shorter one."
            return [Tried(value=None, said=[""], why=[why]) for _ in prompts]
        try:
            return self.trial(text, prompts)
        except RefineError as error:
            self.failure = error
            raise

    def make_reflective_dataset(
        self,
        candidate: Mapping[str, str],
        eval_batch: EvaluationBatch[tuple[Prompt, Tried], Tried],
        components_to_update: list[str],
    ) -> dict[str, list[dict[str, str]]]:
        shown = [
            {"Prompt": prompt.text, "Answer": said, "Scorer": why}
            for prompt, tried in eval_batch.trajectories or []
            for said, why in zip(tried.said, tried.why, strict=True)
        ]
        return dict.fromkeys(components_to_update, shown)

    def reflect(self, prompt: str | list[dict[str, Any]]) -> str:
        """The LLM's reply; where the same is asked again, another one."""
        text = prompt if isinstance(prompt, str) else str(prompt[0]["content"])
        time = self.asked[text] = self.asked.get(text, 0) + 1
        writer, work = self.trial.ring.settings.writer, self.trial.ring.work
        request = Request(
            messages=(Message(role="user", content=text),),
            purpose=PURPOSE,
            variation="" if time == 1 else str(time),
            temperature=writer.temperature,
            max_tokens=writer.max_tokens,
        )
        work.journal.stage(f"{self.client.model} writes another system prompt")
        try:
            reply = self.trial.ring.tries.once(
                key_of("reply", self.client.model, text, time),
                lambda: work.waited_for(self.client.complete(request)).text,
            )
        except CallFailed as error:
            self.failure = MachineError(f"{self.client.model} wrote no system prompt: {error}")
            raise self.failure from error
        except RefineError as error:
            self.failure = error
            raise
        return str(reply)


class _Silent:
    """gepa tells a lot; what matters stands in the run's own files."""

    def log(self, message: str) -> None: ...
