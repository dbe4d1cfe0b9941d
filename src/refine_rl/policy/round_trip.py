"""What a tokenizer loses: texts that do not come back from its tokens as they were.

T5's tokenizer makes one space of line ends and of several spaces, and an unknown token of braces: a model
that reads with it cannot see them, and one that writes with it cannot write them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from refine_rl.policy.control import ControlTextError
from refine_rl.policy.protocol import Speaker
from refine_rl.types import count_of

LOOKED_AT = 256
"""So many texts are sent through the tokenizer, spread over all."""

NAMED = 5
"""So many characters are named, those that most texts lose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """Of `texts` that were looked at, `changed` did not come back whole. `characters` are what they lost,
    each with the number of texts that lost it; empty where characters only stand elsewhere."""

    texts: int
    changed: int
    characters: tuple[tuple[str, int], ...]
    example: tuple[str, str]  # a text, and what came back of it

    @property
    def visible(self) -> bool:
        """Whether more than blanks and line ends is lost."""
        return any(not character.isspace() for character, _ in self.characters)

    def text(self, what: str) -> str:
        """
        >>> lost = Lost(texts=9, changed=2, characters=(("\\n", 2), ("{", 1)), example=("a\\n{", "a"))
        >>> lost.text("prompt")
        "2 of 9 prompts do not come back whole from the model's tokenizer: they lose '\\\\n' (2), '{' (1)"
        """
        names = [f"{character!r} ({number})" for character, number in self.characters[:NAMED]]
        more = ", ..." if len(self.characters) > NAMED else ""
        how = f"they lose {', '.join(names)}{more}" if names else "characters stand elsewhere"
        return (
            f"{self.changed} of {count_of(self.texts, what)} do not come back whole from the model's "
            f"tokenizer: {how}"
        )


def lost_text(speaker: Speaker, texts: Iterable[str]) -> Lost | None:
    """What a round trip through a speaker's tokenizer loses of some of these texts; None where each comes
    back. Blanks at a text's ends do not count."""
    every = [text for text in dict.fromkeys(texts) if text.strip()]
    some = every[:: -(-len(every) // LOOKED_AT) or 1]
    characters: Counter[str] = Counter()
    changed: list[tuple[str, str]] = []
    for text in some:
        with contextlib.suppress(ControlTextError):  # whoever encodes the text as a prompt is told
            back = speaker.decode(speaker.encode_words(text))
            if back.strip() != text.strip():
                changed.append((text, back))
                characters.update((Counter(text.strip()) - Counter(back.strip())).keys())
    if not changed:
        return None
    found = sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    return Lost(texts=len(some), changed=len(changed), characters=tuple(found), example=changed[0])
