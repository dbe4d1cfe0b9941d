"""From source files to pairs: read, filtered with counts, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from refine_rl.errors import UserError
from refine_rl.llm.texts import fill
from refine_rl.prompts.candidates import SPLITS
from refine_rl.prompts.curate import normalised
from refine_rl.prompts.harvest.filters import (
    WHY,
    Limits,
    is_generated,
    wrong_with_answer,
    wrong_with_code,
    wrong_with_function,
)
from refine_rl.prompts.harvest.functions import Function, Source, UnreadError, code_of, read_source
from refine_rl.prompts.harvest.parts import Part, part_of
from refine_rl.prompts.harvest.sameness import shape_of
from refine_rl.prompts.harvest.trees import SourceFile, find_files
from refine_rl.prompts.near_duplicates import NearDuplicates
from refine_rl.types import Split

PROMPT = "Say in one sentence what this function does.\n\n{{code}}"
PROMPTS: dict[Part, str] = {
    "sentence": PROMPT,
    "paragraph": "Say in a paragraph what this function does.\n\n{{code}}",
    "all": "Write the docstring of this function.\n\n{{code}}",
}
_LONGEST: dict[Part, int] = {"sentence": 300, "paragraph": 600, "all": 2000}  # characters of an answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which pairs are wanted.

    `prompt` has the places {{code}} and {{name}}; "" is the usual one for `part`. `answer` and `code` are the
    fewest and most characters (the most of an answer None: 300, 600 or 2,000, by `part`). `near_duplicate` is
    the similarity of code from which one of two is dropped, 1: none. A whole module (or package) is in one
    split, `validation` and `held_out` are about those shares of the pairs.
    """

    part: Part = "sentence"
    prompt: str = ""
    answer: tuple[int, int | None] = (10, None)
    words: int = 3
    code: tuple[int, int] = (40, 2000)
    near_duplicate: float = 0.85
    tests: bool = False
    split_by: Literal["module", "package"] = "module"
    validation: float = 0.05
    held_out: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A row: `answer` is what is to be said of `code`, `docstring` all that stood there. It is a pair for
    supervised fine-tuning, and a prompt whose rewards see everything else."""

    prompt: str
    answer: str
    code: str
    docstring: str
    name: str
    module: str
    package: str
    path: str
    line: int
    licence: str
    split: Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Harvest:
    """The pairs, and what became of the rest: `unread` files with the reason, `dropped` functions by reason
    (those of `filters.WHY`), of `documented` ones among all `functions` of the `files`."""

    pairs: tuple[Pair, ...]
    files: int
    unread: tuple[tuple[str, str], ...]
    functions: int
    documented: int
    dropped: dict[str, int]

    def splits(self) -> dict[Split, int]:
        """How many pairs each split has."""
        found = Counter(pair.split for pair in self.pairs)
        return {split: found[split] for split in SPLITS}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A function that is good by itself."""

    file: SourceFile
    function: Function
    answer: str
    code: str


def harvest(
    names: Sequence[str], wanted: Wanted, each_file: Callable[[int, int], None] = lambda done, of: None
) -> Harvest:
    """The pairs of what `find_files` finds under each name, in the order of the names. Nothing of it is
    imported or run; what cannot be read is counted and named.

    `each_file` hears how many files are read, and may raise to stop. Raises UserError where there is no such
    package, or a prompt has a place that nothing fills.
    """
    _fill(wanted, code="", name="")
    files = _once(names)
    limits = Limits(
        answer=(wanted.answer[0], wanted.answer[1] or _LONGEST[wanted.part]),
        code=wanted.code,
        words=wanted.words,
    )
    dropped: Counter[str] = Counter()
    unread: list[tuple[str, str]] = []
    found: list[_Found] = []
    functions = documented = 0
    for number, file in enumerate(files):
        each_file(number, len(files))
        try:
            source = read_source(file.path)
        except UnreadError as error:
            unread.append((file.shown, str(error)))
            continue
        functions += source.functions
        documented += len(source.documented)
        found += _good(file, source, wanted, limits, dropped)
    kept = _unlike(found, wanted, dropped)
    splits = _splits(kept, wanted)
    return Harvest(
        pairs=tuple(_pair(one, wanted, split) for one, split in zip(kept, splits, strict=True)),
        files=len(files),
        unread=tuple(unread),
        functions=functions,
        documented=documented,
        dropped={why: dropped[why] for why in WHY if dropped[why]},
    )


def _once(names: Sequence[str]) -> list[SourceFile]:
    """Each file once, under the name that comes first."""
    files: dict[Path, SourceFile] = {}
    for name in names:
        for file in find_files(name):
            files.setdefault(file.path.resolve(), file)
    return list(files.values())


def _good(
    file: SourceFile, source: Source, wanted: Wanted, limits: Limits, dropped: Counter[str]
) -> Iterator[_Found]:
    generated = is_generated(file, source.lines)
    for function in source.documented:
        answer = part_of(function.docstring, wanted.part)
        code = None
        why = wrong_with_function(function, file, generated=generated, tests=wanted.tests)
        why = why or wrong_with_answer(answer, limits)
        if not why:
            code = code_of(function, source.lines)
            why = wrong_with_code(code, limits)
        if why or code is None:
            dropped[why] += 1
        else:
            yield _Found(file=file, function=function, answer=answer, code=code)


def _unlike(found: Sequence[_Found], wanted: Wanted, dropped: Counter[str]) -> list[_Found]:
    """Of functions that resemble one another the first."""
    shapes: set[bytes] = set()
    said: set[tuple[str, str]] = set()
    different: list[_Found] = []
    for one in found:
        shape = shape_of(one.function.node)
        words = (one.function.name.rpartition(".")[2], normalised(one.answer))
        why = "same code" if shape in shapes else "same docstring" if words in said else ""
        if why:
            dropped[why] += 1
            continue
        shapes.add(shape)
        said.add(words)
        different.append(one)
    if wanted.near_duplicate == 1:
        return different
    near = NearDuplicates([one.code for one in different], wanted.near_duplicate)
    kept = []
    for number, one in enumerate(different):
        if near.find(number) is not None:
            dropped["near-duplicate"] += 1
        else:
            near.add(number)
            kept.append(one)
    return kept


def _splits(kept: Sequence[_Found], wanted: Wanted) -> list[Split]:
    """A split for each, the same for all of a module or package. Which one is said by the hash of its name:
    the first in that order are held out, the next validate. One that has more than twice what a split is to
    have is passed over; where all have, the smallest is taken."""
    groups = [getattr(one.file, wanted.split_by) for one in kept]
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda name: blake2b(name.encode(), digest_size=16).digest())
    split_of: dict[str, Split] = {}
    shares: tuple[tuple[Split, float], ...] = (
        ("held_out", wanted.held_out),
        ("validation", wanted.validation),
    )
    for split, share in shares:
        target = share * len(kept)
        if not target:
            continue
        free = [name for name in order if name not in split_of]
        count = 0
        for name in [n for n in free if sizes[n] <= 2 * target] or sorted(free, key=sizes.__getitem__)[:1]:
            if count >= target or len(split_of) >= len(order) - 1:  # one is left for training
                break
            split_of[name] = split
            count += sizes[name]
    return [split_of.get(name, "train") for name in groups]


def _pair(one: _Found, wanted: Wanted, split: Split) -> Pair:
    return Pair(
        prompt=_fill(wanted, code=one.code, name=one.function.name),
        answer=one.answer,
        code=one.code,
        docstring=one.function.docstring,
        name=one.function.name,
        module=one.file.module,
        package=one.file.package,
        path=one.file.shown,
        line=one.function.line,
        licence=one.file.licence,
        split=split,
    )


def _fill(wanted: Wanted, *, code: str, name: str) -> str:
    template = wanted.prompt or PROMPTS[wanted.part]
    try:
        text = fill(template, {"code": code, "name": name})
    except ValueError as error:
        raise UserError(f"the prompt: {error}; there are {{{{code}}}} and {{{{name}}}}") from None
    if "{{code}}" not in template.replace(" ", ""):
        text = f"{text}\n\n{code}"
    return text
