"""Best of n: the base model answers n times, and the run's own reward chooses.

What it cannot be beaten by is luck; what it costs is n answers for each one, and the reward each time it is
used. With a reward that is judged the judge is there at use, too. As n grows the choice exploits the reward
(Gao et al., arXiv 2210.10760): so another eye (evaluate.judge) measures what was chosen, where one is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from refine_rl.envs.play import sample
from refine_rl.evaluate.answer import Answers
from refine_rl.llm.meter import meter
from refine_rl.pipeline.rivals.rival import Answered, Record, Ring
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose
from refine_rl.settings import Settings
from refine_rl.types import Prompt, Score, Trajectory, count_of


class BestOfN:
    """See the module."""

    def of(self, settings: Settings) -> Record:
        return {"n": settings.best_of}

    def make(self, ring: Ring) -> Record:
        """There is nothing to be made."""
        return {"how": f"the best of {ring.settings.best_of} answers of the base model by the run's reward"}

    def answer(
        self, ring: Ring, made: Mapping[str, Any], prompts: Sequence[Prompt], purpose: Purpose
    ) -> Answered:
        """The chosen answers; the first stands for the greedy one, which there is not."""
        work, n, samples = ring.work, ring.settings.best_of, ring.settings.evaluate.samples
        drawn = sample(
            ring.base,
            prompts,
            members=samples * n,
            sampling=Sampling(max_tokens=ring.settings.rollout.max_tokens, temperature=1.0),
            purpose=purpose,
            stage=work.stage,
            pause=work.pause,
            counted=partial(work.journal.observer.count, "prompts answered"),
        )
        groups = [group[n * k : n * (k + 1)] for group in drawn for k in range(samples)]
        asked = [prompt for prompt in prompts for _ in range(samples)]
        score = work.scorer(work.scorers.validation, "The choice among n answers", "missing_in_best_of_n")
        with meter() as counted:
            scores = score(asked, [_numbered(group) for group in groups])
        chosen = [best(group, given) for group, given in zip(groups, scores, strict=True)]
        answers = []
        for place, prompt in enumerate(prompts):
            own = _numbered(chosen[samples * place : samples * (place + 1)])
            answers.append(Answers(prompt=prompt, sampled=own, greedy=own[0]))
        tokens = sum(t.completion_tokens for group in drawn for t in group) / len(groups)
        calls = counted.calls / len(groups)
        judged = f" ({calls:.3g} calls to LLMs)" if counted.calls else ""
        at_use = f"{count_of(n, 'answer')} for one, and the reward of each{judged}"
        return Answered(answers=answers, tokens=tokens, at_use=at_use, draws=n)


def best(group: Sequence[Trajectory], scores: Sequence[Score]) -> Trajectory:
    """The first of the answers with the highest reward; the first of all where none has a score.

    >>> from refine_rl.rewards.base import untokenized
    >>> asked = Prompt(id="p1", split="train", messages=({"role": "user", "content": "Say hi."},))
    >>> group = untokenized(asked, ["Oh.", "Hi!", "Hi you!"])
    >>> best(group, [Score.missing("down"), Score(value=0.5), Score(value=0.5)]).completion
    'Hi!'
    """
    values = [float("-inf") if s.value is None else s.value for s in scores]
    return group[values.index(max(values))]


def _numbered(group: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
    """As members 0, 1 ... of a group of their own."""
    return tuple(replace(t, member=member) for member, t in enumerate(group))
