"""Self-distillation: the policy is its own teacher, shown what it did not know when it answered.

Behind the prompt stands what the rewards said of this very answer ("reason"), or the best other answer of its
group ("best"). p is the policy's own probability of each token of the answer behind that longer prompt, with
the weights that sampled it; the token's advantage is that of any teacher (teacher.py),

    A = (1 - w) A_reward + w sg(log p - log mu)

(SDPO, Huebotter et al. 2026, arXiv 2601.20802). An answer with nothing to be shown keeps A_reward whole: one
without a reason, one that no other answer is better than. Left out: a teacher of averaged weights, and a
divergence over the whole vocabulary in place of the sampled token's log-ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from refine_rl.policy.control import ControlTextError
from refine_rl.policy.protocol import Speaker
from refine_rl.training.grpo.advantages import Scored
from refine_rl.training.reference import logprobs_of
from refine_rl.types import Message, Prompt, Score, Segment, Taught, Trajectory, same_value

_TEXTS = Path(__file__).with_name("texts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Itself:
    """What a step's answers are to the policy that wrote them, once it is `shown` more; a `Teach`. `tokens`
    go through it at once. `tell` is told of an answer that is left out."""

    speaker: Speaker
    shown: str
    tokens: int
    tell: Callable[[str], None]

    def __call__(self, scored: Sequence[Scored]) -> list[tuple[Taught | None, ...]]:
        """One entry a member: None for one that is not taught."""
        shown = [self._shown(group, scores) for _, group, scores in scored]
        asked: dict[tuple[int, int], Trajectory] = {}
        for g, (prompt, group, _) in enumerate(scored):
            for m, (trajectory, text) in enumerate(zip(group, shown[g], strict=True)):
                if text and (longer := self._asked(prompt, trajectory, text)) is not None:
                    asked[g, m] = replace(longer, member=len(asked))  # a prompt may stand in a step twice
        if not asked:
            return [(None,) * len(group) for _, group, _ in scored]
        known = logprobs_of(self.speaker, [*asked.values()], temperature=1.0, tokens=self.tokens)

        def taught(place: tuple[int, int], text: str) -> Taught | None:
            if (its := asked.get(place)) is None:
                return None
            return Taught(logprobs=known[its.prompt_id, its.member], shown=text)

        return [tuple(taught((g, m), text) for m, text in enumerate(its)) for g, its in enumerate(shown)]

    def _shown(self, group: Sequence[Trajectory], scores: Sequence[Score]) -> list[str]:
        return reasons(scores) if self.shown == "reason" else better(group, scores)

    def _asked(self, prompt: Prompt, trajectory: Trajectory, text: str) -> Trajectory | None:
        """The answer behind the longer prompt; None, and a word, where it cannot be read there."""
        which = f"answer {trajectory.member} to {prompt.id} is not taught"
        try:
            ids = self.speaker.encode(with_shown(prompt.messages, self.shown, text))
        except ControlTextError as error:
            self.tell(f"{which}: {error}")
            return None
        if self.speaker.answer_room(len(ids)) < trajectory.completion_tokens:
            self.tell(
                f"{which}: with what it is shown, it and its prompt have "
                f"{len(ids) + trajectory.completion_tokens:,} tokens, more than the model reads"
            )
            return None
        prompted = Segment(token_ids=ids, trainable=False)
        return replace(trajectory, segments=(prompted, *trajectory.segments[1:]))


def reasons(scores: Sequence[Score]) -> list[str]:
    """What was said of each answer; "" where no verdict was had.

    >>> reasons([Score(value=0.5, explanation="too long "), Score.missing("the judge did not answer")])
    ['too long', '']
    """
    return ["" if s.status == "missing" else s.explanation.strip() for s in scores]


def better(group: Sequence[Trajectory], scores: Sequence[Score]) -> list[str]:
    """The best answer of the group, for each member that it is better than; "" for the others.

    >>> def said(text, member):
    ...     return Trajectory(prompt_id="p", member=member, segments=(), stop_reason="stop",
    ...                       messages=({"role": "assistant", "content": text},))
    >>> values = [Score(value=0.5), Score(value=1.0), Score(value=1.0), Score.missing("no judge")]
    >>> better([said(text, m) for m, text in enumerate("abcd")], values)
    ['b', '', '', '']
    """
    known = [(s.value, t) for t, s in zip(group, scores, strict=True) if s.value is not None]
    if not known:
        return [""] * len(group)
    top, best = max(known, key=lambda pair: pair[0])  # the first of the best ones
    return ["" if s.value is None or same_value([s.value, top]) else best.completion.strip() for s in scores]


def with_shown(messages: Sequence[Message], kind: str, text: str) -> tuple[Message, ...]:
    """The prompt with a text shown at the end of its last message.

    >>> with_shown([{"role": "user", "content": "Say hi."}], "best", "Hi!")[0]["content"].splitlines()[:4]
    ['Say hi.', '', 'A good answer to this:', 'Hi!']
    """
    *before, last = messages
    more = _text(kind).replace("{{shown}}", text)
    return (*before, {**last, "content": last["content"] + more})


@cache
def _text(kind: str) -> str:
    return (_TEXTS / f"{kind}.md").read_text(encoding="utf-8").rstrip("\n")
