"""What the recipe `docstrings` watches beside its rules."""

from __future__ import annotations

import re

from refine_rl.types import Score

_WORD = re.compile(r"[A-Z]+s?(?![a-z])|[A-Z]?[a-z]+|\d+")


def words(text: str) -> list[str]:
    """The words of a name or a text, in lower case.

    >>> words("JSONEncoder.iter_encode"), words("Encode user IDs.")
    (['json', 'encoder', 'iter', 'encode'], ['encode', 'user', 'ids'])
    """
    return [word.lower() for word in _WORD.findall(text)]


def name_words(prompt: str, completion: str, name: str) -> Score:
    """The share of the words of the function's own name that the docstring repeats. It is watched, with
    weight 0: a docstring that echoes the name has words in common with the right one for free.

    >>> name_words("", "Encodes the user.", "Users.encode_user").value
    0.5
    """
    own = set(words(name.rpartition(".")[2]))
    said = set(words(completion))
    return Score(
        value=len(own & said) / len(own) if own else 0.0, explanation=f"{len(own & said)} of {len(own)}"
    )
