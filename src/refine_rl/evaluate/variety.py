"""Whether a policy's answers depend on the prompt: a collapse across prompts has no other sign in a reward
that is about form, for each single answer may be good."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from refine_rl.types import Variety

OPENINGS = 3  # that are named
OPENING_WORDS = 4
_LONGEST = 48  # characters of an opening


def variety(answers: Sequence[tuple[str, Iterable[str]]]) -> Variety:
    """The variety of answers, given by prompt: (the prompt's id, its answers). Case and white space make no
    difference; answers to one and the same prompt may be equal.

    >>> found = variety([("p1", ["Sure, here you are: a", "No."]), ("p2", ["Sure, here you are: b", "no."])])
    >>> found.distinct_share, dict(found.openings)
    (0.5, {'Sure, here you are:': 0.5, 'No.': 0.5})
    """
    prompts_of: defaultdict[str, set[str]] = defaultdict(set)
    openings_of: defaultdict[str, set[str]] = defaultdict(set)
    texts: list[str] = []
    first_seen: dict[str, str] = {}
    openings: Counter[str] = Counter()
    for prompt, group in answers:
        for answer in group:
            words = answer.split()
            texts.append(" ".join(words).casefold())
            prompts_of[texts[-1]].add(prompt)
            opening = " ".join(words[:OPENING_WORDS])[:_LONGEST]
            key = opening.casefold()
            first_seen.setdefault(key, opening)
            openings[key] += 1
            openings_of[key].add(prompt)
    if len({prompt for prompt, _ in answers}) < 2 or not texts:
        return Variety(distinct_share=None)
    shared = [(key, count) for key, count in openings.most_common() if len(openings_of[key]) > 1]
    return Variety(
        distinct_share=sum(len(prompts_of[text]) == 1 for text in texts) / len(texts),
        openings={first_seen[key]: count / len(texts) for key, count in shared[:OPENINGS]},
    )


def collapse(
    before: float | None, after: float | None, openings: Mapping[str, float], whose: str = "Answers"
) -> str:
    """What to say where answers that mostly belonged to their prompt now mostly serve several; "" else.
    `before` and `after` are shares of distinct answers, `openings` the most frequent ones now. Answers out of
    a small set that still tell prompts apart (numbers, say) are no collapse.

    >>> collapse(0.9, 0.6, {"Sure,": 0.8}), collapse(0.3, 0.0, {"Sure,": 0.8}), collapse(0.9, 0.2, {"7": 0.2})
    ('', '', '')
    """
    if before is None or after is None:
        return ""
    if before < 0.5 or after >= 0.5 * before or sum(openings.values()) < 0.5:
        return ""
    return (
        f"{whose} came to be the same for different prompts: {100 * before:.0f} % belonged to one prompt "
        f"alone, now {100 * after:.0f} % do. They begin with {openings_text(openings.items())}. If the task "
        "does not ask for it (labels, yes or no), the reward does not look at the prompt: give it a "
        "component that does (keeps, a judge, a quiz)."
    )


def openings_text(openings: Iterable[tuple[str, float]]) -> str:
    """The openings as a person reads them.

    >>> openings_text({"Sure, here you are:": 0.5, "": 0.25}.items())
    '“Sure, here you are:” (50 %), nothing at all (25 %)'
    """
    return ", ".join(
        f"{f'“{text}”' if text else 'nothing at all'} ({100 * share:.0f} %)" for text, share in openings
    )
