"""Whether answers still say what the prompt is about: the collapse of a reward that pays for shortness.

Where nothing in a reward looks at what an answer says, the cheapest way up leaves the content out: answers
shrink, they keep fewer of the prompt's content words, and the reward rises all the while. Short answers alone
are no collapse, as brevity may be asked for. What tells the two apart is whether the reward follows from an
answer's length alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

from refine_rl.rewards.text.english import content_stems
from refine_rl.types import Content, Prompt, Score, Trajectory, decimals, mean_of, same_value

SHRUNK = 0.6  # of the tokens before: from here on down answers shrank
LOST = 0.6  # of the share of content words before
LEAST = 0.02  # of the prompt's content words; who kept less before had nothing to lose
DECIDES = 0.7  # `follows` from here on up: length decides the reward
FEWEST = 12  # pairs of which that can be said
_ADVICE = (
    "Length alone decides this reward. Pay for what an answer says, in [reward]: "
    '`rules = [{rule = "words", min = 8, max = 30}, {rule = "keeps", enough = 0.3, weight = 2.0}]`, with '
    "numbers that suit the task, or a judge."
)


def content(groups: Sequence[tuple[Prompt, Sequence[tuple[Trajectory, Score]]]]) -> Content:
    """What answers to several prompts are like, given by prompt with their scores."""
    pairs = [pair for _, group in groups for pair in group]
    shares = [share for prompt, group in groups if (share := kept_share(prompt, group)) is not None]
    scored = [(t, s.value) for t, s in pairs if s.value is not None]
    values = [value for _, value in scored]
    sizes = (
        [t.completion_tokens for t, _ in scored],
        [len(t.said) for t, _ in scored],
        [len(t.said.split()) for t, _ in scored],
    )
    follow = [f for size in sizes if (f := follows(size, values)) is not None]
    return Content(
        tokens=mean_of([t.completion_tokens for t, _ in pairs]),
        kept=mean_of(shares) if shares else None,
        by_length=max(follow) if follow else None,
    )


def kept_share(prompt: Prompt, answers: Iterable[tuple[Trajectory, object]]) -> float | None:
    """The mean share of the prompt's different content words that its answers keep; None for a prompt without
    any. English stop words are left out, and the forms of a word are one."""
    wanted = frozenset(content_stems(prompt.text))
    shares = [len(wanted.intersection(content_stems(t.said))) / len(wanted) for t, _ in answers if wanted]
    return mean_of(shares) if shares else None


def follows(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """How far `values` follow from `sizes`: 1 where they rise or fall with them, less but near it where they
    are another function of them, and about 0, or below, where they do not depend on them. It is Chatterjee's
    rank correlation (arXiv 1909.10140),

        xi = 1 - n sum |r_(i+1) - r_i| / (2 sum l_i (n - l_i)),

    over n pairs in the order of their sizes, where r_i of the values are at most the i-th one and l_i at
    least, divided by what it would be in the order of the values (the bias of few pairs, arXiv 2312.15496).
    Pairs of the same size are put so that high and low values alternate: what they cannot tell apart counts
    against them. None for fewer than 12 pairs, and for values that are all the same.

    >>> follows(range(12), [0] * 6 + [1] * 6), follows([3] * 12, [0] * 6 + [1] * 6)
    (1.0, -1.0)
    """
    n = len(values)
    if n < FEWEST or same_value(values):
        return None
    ordered: list[float] = []
    for _, same in groupby(sorted(zip(sizes, values, strict=True)), key=lambda pair: pair[0]):
        ordered += _alternating([value for _, value in same])
    ascending = sorted(values)
    at_most = {value: place for place, value in enumerate(ascending, 1)}
    at_least = {value: n - place for place, value in reversed([*enumerate(ascending)])}
    ranks = [at_most[value] for value in ordered]
    spread = 2 * sum(at_least[value] * (n - at_least[value]) for value in values) / n
    apart = sum(abs(after - before) for before, after in pairwise(ranks))
    return (spread - apart) / (spread - (max(ranks) - min(ranks)))


def _alternating(ascending: Sequence[float]) -> list[float]:
    """
    >>> _alternating([1, 2, 3, 4, 5])
    [3, 1, 4, 2, 5]
    """
    half = len(ascending) // 2
    found = [ascending[(place // 2) + (0 if place % 2 else half)] for place in range(2 * half)]
    return [*found, *ascending[2 * half :]]


def content_loss(before: Content, after: Content, reward: tuple[float, float]) -> str:
    """What to say where answers shrank and lost the prompt's content while the `reward` (before, after) rose,
    and length alone decides the reward; "" else.

    >>> long, short = Content(tokens=40.0, kept=0.3, by_length=0.9), Content(tokens=6.0, kept=0.05)
    >>> print(content_loss(long, short, (-80.0, -2.0))[:97])
    Answers fell from 40 to 6 tokens and from 30 % to 5 % of the prompt's content words, while the re
    >>> content_loss(Content(tokens=40.0, kept=0.3, by_length=0.2), short, (0.25, 0.75))
    ''
    """
    if before.kept is None or after.kept is None or reward[1] <= reward[0] or before.kept < LEAST:
        return ""
    lost = after.tokens < SHRUNK * before.tokens and after.kept < LOST * before.kept
    decided = max([c.by_length for c in (before, after) if c.by_length is not None], default=0.0)
    if not lost or decided < DECIDES:
        return ""
    return (
        f"Answers fell from {before.tokens:.0f} to {after.tokens:.0f} tokens and {kept_words(before, after)} "
        f"of the prompt's content words, while the reward rose from {decimals(reward[0])} to "
        f"{decimals(reward[1])}. {_ADVICE}"
    )


def kept_words(before: Content, after: Content) -> str:
    """
    >>> kept_words(Content(tokens=9.0, kept=0.25), Content(tokens=3.0, kept=0.125))
    'from 25 % to 12 %'
    >>> kept_words(Content(tokens=9.0, kept=0.25), Content(tokens=3.0, kept=None))
    ''
    """
    if before.kept is None or after.kept is None:
        return ""
    return f"from {100 * before.kept:.0f} % to {100 * after.kept:.0f} %"
