"""A system prompt, tried on training prompts: the base model answers with it, and the run's reward scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from refine_rl.envs.play import sample
from refine_rl.errors import UserError
from refine_rl.pipeline.rivals.rival import Ring
from refine_rl.pipeline.rivals.tries import key_of
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.settings.evaluate import TRIED_EACH
from refine_rl.types import Message, Prompt, Score, Trajectory, mean_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """What came of a text on one prompt: what it is worth, the mean reward of its answers (None where none
    has a score); what was said, and what the reward said of it."""

    value: float | None
    said: list[str]
    why: list[str]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Tries texts on training prompts, with the same draws for each. Where scores compare only within a
    group, the base model's answers to the prompts as they are stand in every group, and a text is worth what
    its answers earn more than those: the prompts as they are are worth 0."""

    ring: Ring
    _beside: dict[str, tuple[Trajectory, ...]] = field(default_factory=dict)

    @property
    def relative(self) -> bool:
        return self.ring.work.scorers.validation.relative

    @property
    def each(self) -> int:
        """Answers that are scored when a text is tried on one prompt."""
        return 2 * TRIED_EACH if self.relative else TRIED_EACH

    def __call__(self, text: str | None, prompts: Sequence[Prompt]) -> list[Tried]:
        """The text (None: the prompts as they are) on prompts of training, each of them once."""
        keys = [key_of("tried", text, prompt.id, prompt.messages) for prompt in prompts]
        found = self.ring.tries.each(
            keys, lambda new: self._try(text, [prompts[n] for n in new]), answers=self.each
        )
        return [Tried(**record) for record in found]

    def mean(self, text: str | None, prompts: Sequence[Prompt]) -> float | None:
        """Its mean reward over the prompts; None where none has a score."""
        values = [t.value for t in self(text, prompts) if t.value is not None]
        return mean_of(values) if values else None

    def fits(self, text: str) -> bool:
        """Whether every training prompt has room for it before an answer."""
        work = self.ring.work
        room = work.policy.prompt_room(work.settings.rollout.max_tokens)
        put = Put.before(text, self.ring.train, work.policy)
        return all(len(work.policy.encode(put(p).messages)) <= room for p in self.ring.train)

    def _try(self, text: str | None, prompts: Sequence[Prompt]) -> list[dict[str, object]]:
        work = self.ring.work
        put = Put.before(text, self.ring.train, work.policy)
        asked = [put(prompt) for prompt in prompts]
        said = [
            [replace(t, messages=(*p.messages, *t.messages[len(a.messages) :])) for t in group]
            for p, a, group in zip(prompts, asked, self._sampled(asked), strict=True)
        ]
        before = self._before(prompts) if self.relative else [() for _ in prompts]
        score = work.scorer(work.scorers.validation, "The search for a prompt", "missing_in_rival_prompt")
        groups = [_numbered((*b, *own)) for b, own in zip(before, said, strict=True)]
        found: list[dict[str, object]] = []
        for own, scores in zip(said, score(prompts, groups), strict=True):
            last = scores[-len(own) :]
            why = [_why(s.value, dict(s.breakdown), s.explanation) for s in last]
            value = _mean(last)
            if self.relative and value is not None:
                usual = _mean(scores[: -len(own)])
                value = None if usual is None else value - usual
            found.append({"value": value, "said": [t.said for t in own], "why": why})
        return found

    def _before(self, prompts: Sequence[Prompt]) -> list[tuple[Trajectory, ...]]:
        """The base model's answers to the prompts as they are."""
        new = [prompt for prompt in prompts if prompt.id not in self._beside]
        if new:
            groups = self._sampled(new)
            self._beside.update({p.id: tuple(group) for p, group in zip(new, groups, strict=True)})
        return [self._beside[prompt.id] for prompt in prompts]

    def _sampled(self, prompts: Sequence[Prompt]) -> list[tuple[Trajectory, ...]]:
        work = self.ring.work
        return sample(
            self.ring.base,
            prompts,
            members=TRIED_EACH,
            sampling=Sampling(max_tokens=work.settings.rollout.max_tokens, temperature=1.0),
            purpose=self.ring.purpose,
            stage=work.stage,
            pause=work.pause,
        )


def _mean(scores: Sequence[Score]) -> float | None:
    values = [s.value for s in scores if s.value is not None]
    return mean_of(values) if values else None


def _numbered(group: Sequence[Trajectory]) -> list[Trajectory]:
    return [replace(t, member=member) for member, t in enumerate(group)]


def _why(value: float | None, breakdown: dict[str, float], explanation: str) -> str:
    parts = ", ".join(f"{name} {value:.3g}" for name, value in breakdown.items())
    told = "no score" if value is None else f"reward {value:.3g}"
    return "; ".join(part for part in (told, parts, explanation) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Put:
    """Where a text is put: in the place of the system message that all prompts share (`in_place`), else
    before their own; inside the user's first message where the model's template knows no system message
    (`inside`)."""

    text: str | None
    in_place: bool
    inside: bool

    @classmethod
    def before(cls, text: str | None, train: Sequence[Prompt], policy: Policy) -> Put:
        """As the training prompts and the model's template want it."""
        own = {system_of(prompt) for prompt in train}
        inside = False
        if own == {""}:
            system = Message(role="system", content="Be brief.")
            try:
                policy.encode([system, *train[0].messages])
            except UserError:
                inside = True
        return cls(text=text, in_place=len(own) == 1, inside=inside)

    def __call__(self, prompt: Prompt) -> Prompt:
        """The prompt with the text.

        >>> asked = Prompt(id="p1", split="train", messages=({"role": "user", "content": "Say hi."},))
        >>> [m["content"] for m in Put(text="Be kind.", in_place=True, inside=False)(asked).messages]
        ['Be kind.', 'Say hi.']
        >>> Put(text="Be kind.", in_place=True, inside=True)(asked).messages[0]["content"]
        'Be kind.\\n\\nSay hi.'
        """
        if self.text is None:
            return prompt
        own, messages = system_of(prompt), prompt.messages
        if own:
            text = self.text if self.in_place else f"{self.text}\n\n{own}"
            return replace(prompt, messages=(Message(role="system", content=text), *messages[1:]))
        if self.inside:
            first = Message(role=messages[0]["role"], content=f"{self.text}\n\n{messages[0]['content']}")
            return replace(prompt, messages=(first, *messages[1:]))
        return replace(prompt, messages=(Message(role="system", content=self.text), *messages))


def system_of(prompt: Prompt) -> str:
    """The prompt's own system message; "" without one."""
    first = prompt.messages[0]
    return first["content"] if first["role"] == "system" else ""
