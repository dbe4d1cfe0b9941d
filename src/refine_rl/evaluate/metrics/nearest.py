"""The nearest text of a collection by its words: what a table of training answers would say, without a model.

Cosine of TF-IDF vectors (Salton and Buckley 1988): a word counts by how often it stands in the text, times
the logarithm of how rare it is in the collection. Words of names are their parts (`readTextFile`: read, text,
file).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_PART = re.compile(r"[^\W\d_]+|\d+")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # where a part of a name begins


def parts(text: str) -> list[str]:
    """The words of a text, names taken apart, in lower case.

    >>> parts("def readTextFile(path_2): # HTTPServer")
    ['def', 'read', 'text', 'file', 'path', '2', 'http', 'server']
    """
    return [part.lower() for part in _PART.findall(_CAPITAL.sub(" ", text))]


def echo(name: str) -> str:
    """A name as a sentence.

    >>> echo("os.path.read_text_file"), echo("parseHTTPHeader"), echo("The café")
    ('Read text file.', 'Parse http header.', 'The café.')
    """
    last = name if " " in name else name.rpartition(".")[2]
    said = " ".join(parts(last))
    return f"{said[:1].upper()}{said[1:]}." if said else ""


class Nearest:
    """Finds, for a text, the place of the nearest of `texts`; the first of those that are equally near.

    >>> Nearest(["read a file", "write a file", "close"]).place("write files to a file")
    1
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if not texts:
            raise ValueError("nothing is near to anything among no texts")
        counted = [Counter(parts(text)) for text in texts]
        found_in = Counter(word for words in counted for word in words)
        self._rarity = {word: math.log(1 + len(texts) / number) for word, number in found_in.items()}
        self._weights: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, words in enumerate(counted):
            length = math.sqrt(sum((n * self._rarity[word]) ** 2 for word, n in words.items()))
            for word, n in words.items():
                self._weights[word].append((place, n * self._rarity[word] / length))

    def place(self, text: str) -> int:
        near: defaultdict[int, float] = defaultdict(float)
        for word, n in Counter(parts(text)).items():
            for place, weight in self._weights.get(word, ()):
                near[place] += n * self._rarity[word] * weight
        return min(near, key=lambda place: (-near[place], place), default=0)
