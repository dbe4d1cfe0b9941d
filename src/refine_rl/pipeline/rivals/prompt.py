"""The base model with a better system prompt, searched on training prompts alone.

With an LLM at hand (the writer, else the first judge) the search is GEPA's (Agrawal et al., arXiv 2507.19457,
the library `gepa`): the LLM reads answers with what the reward said of them, and writes another prompt; what
does better on a few prompts is measured on more, and the best on those is taken. Without one it is a plain
search. Where nothing is better than the prompts as they are, they stay so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refine_rl.errors import MachineError
from refine_rl.pipeline.rivals.gepa_search import gepa_search, gepa_version
from refine_rl.pipeline.rivals.plain import HOW, plain_search
from refine_rl.pipeline.rivals.rival import Answered, Record, Ring, as_asked, tokens_of
from refine_rl.pipeline.rivals.trial import Put, Trial, system_of
from refine_rl.policy.protocol import Purpose
from refine_rl.randomness import generator
from refine_rl.settings import Settings
from refine_rl.settings.evaluate import MEASURED, MINIBATCH, measured_prompts
from refine_rl.types import Prompt, count_of, decimals


class BetterPrompt:
    """See the module."""

    def of(self, settings: Settings) -> Record:
        return {
            "task": settings.task,
            "reflects": settings.reflects,
            "rival_calls": settings.rival_calls,
            "seed": settings.grpo.seed,
        }

    def make(self, ring: Ring) -> Record:
        settings, trial = ring.settings, Trial(ring=ring)
        most = settings.rival_calls // trial.each
        measured, shown = chosen_prompts(ring.train, settings.grpo.seed, most)
        own = {system_of(prompt) for prompt in ring.train}
        first = next(iter(own)) if len(own) == 1 else ""
        if settings.reflects:
            how = f"gepa {gepa_version()}, {settings.reflects} writing"
            found = gepa_search(trial, first or settings.task.strip(), measured, shown, minibatch=MINIBATCH)
        else:
            how = f"a plain search: {HOW}"
            found = plain_search(trial, settings.task, measured, shown, most=most)
        means = {text: value for text, value in found.tried if value is not None}
        if None not in means:
            raise MachineError("No training prompt has a score of the base model's answers.")
        text, before = found.best, means[None]
        by = ", by reward beyond the base model's answers" if trial.relative else ""
        number, prompts = count_of(len(found.tried), "text"), count_of(len(measured), "training prompt")
        how += f"; {number} tried on {prompts}{by}: "
        if text is None:
            how += f"none is better than the prompts as they are ({decimals(before)}), so they stay so"
        else:
            how += f"{decimals(before)} -> {decimals(means[text])}"
        return {"how": how, "found": text or "", "tried": [list(one) for one in found.tried]}

    def answer(
        self, ring: Ring, made: Mapping[str, Any], prompts: Sequence[Prompt], purpose: Purpose
    ) -> Answered:
        work, text = ring.work, made["found"] or None
        put = Put.before(text, ring.train, work.policy)
        room = work.policy.prompt_room(work.settings.rollout.max_tokens)
        encode = work.policy.encode
        asked = [put(prompt) for prompt in prompts]
        long = [place for place, p in enumerate(asked) if len(encode(p.messages)) > room]
        for place in long:
            asked[place] = prompts[place]
        answers = work.answers(asked, purpose, speaker=ring.base)
        more = [
            len(encode(a.messages)) - len(encode(p.messages)) for a, p in zip(asked, prompts, strict=True)
        ]
        at_use = f"{sum(more) / len(more):.0f} tokens more to read" if text else ""
        if long:
            at_use += f"; {count_of(len(long), 'prompt')} had no room for the text"
        return Answered(answers=as_asked(answers, prompts), tokens=tokens_of(answers), at_use=at_use)


def chosen_prompts(train: Sequence[Prompt], seed: int, most: int) -> tuple[list[Prompt], list[Prompt]]:
    """The training prompts on which candidates are measured, and others whose answers are read; the same
    where there are too few for both. `most` are the prompts that may be answered in all.

    >>> asked = ({"role": "user", "content": "Hi."},)
    >>> few = [Prompt(id=f"p{n}", split="train", messages=asked) for n in range(9)]
    >>> measured, shown = chosen_prompts(few, 0, 100)
    >>> len(measured), len(shown), {p.id for p in measured} & {p.id for p in shown}
    (4, 5, set())
    """
    order = [train[i] for i in generator(seed, "rival prompts").permutation(len(train))]
    count = measured_prompts(len(order), most)
    if count == len(order):
        return order, order
    return order[:count], order[count : count + 4 * MEASURED]
