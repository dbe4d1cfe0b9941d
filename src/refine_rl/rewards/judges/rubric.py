"""What judges go by: the general rubric, one's own, or one that an LLM wrote from the task.

A rubric is text. Where it has lines of the form

    - NAME (weight 2): what is wanted

it is a list of criteria: a ruler scores every answer by each of them, and the value is their weighted
mean, computed here and not by the judge. Any other text is judged by as a whole.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.errors import MachineError, SettingsError, UserError, path_from
from refine_rl.llm.client import CallFailed, Client, Request
from refine_rl.llm.schemas import listed
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.settings.file import read_text
from refine_rl.types import Message

TEXTS = Path(__file__).parent / "texts"
LEAST, MOST = 3, 7
"""How many criteria an LLM is asked for."""

_WEIGHTED = re.compile(
    r"\s*[-*+]\s+(?P<name>.*?)\s*\(\s*weight\b\s*[:=]?\s*(?P<weight>[^)]*)\)\s*:(?P<text>.*)", re.I
)
_BULLET = re.compile(r"\s*[-*+]\s")
_NAME = re.compile(r"[\w][\w -]{0,39}")
_CRITERION = '"- NAME (weight 2): what is wanted"'

_TEMPERATURE = 0.3  # at which one is written
_TEXT = {"type": "string"}
_SCHEMA = listed(
    "criteria", {"name": _TEXT, "description": _TEXT, "weight": {"type": "number"}}, name="rubric"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One thing that is wanted, and how much it counts.

    >>> Criterion(name="brief", weight=2.0, text="At most one sentence.").line
    '- brief (weight 2): At most one sentence.'
    """

    name: str
    weight: float
    text: str

    @property
    def line(self) -> str:
        """The criterion as it stands in a rubric."""
        return f"- {self.name} (weight {self.weight:g}): {self.text}"

    @property
    def plain(self) -> str:
        """What is left of its name however a judge writes it; no two criteria have the same."""
        return plain_name(self.name)


def plain_name(name: str) -> str:
    """The letters and digits of a criterion's name, whatever their case.

    >>> plain_name(" In the tone-of_voice: ") == plain_name("in the tone of voice")
    True
    """
    return "".join(sign for sign in unicodedata.normalize("NFKC", name).casefold() if sign.isalnum())


def default_rubric() -> str:
    """What judges go by where nobody says anything else."""
    return load_text(TEXTS, "rubric_default.md")


def rubric_named(given: str, folder: Path) -> str:
    """The text that `reward.rubric` means: itself, that of "file:PATH" (from `folder`), or the general one,
    also for "write" as long as nobody has written it.

    Raises UserError that names the file and the line of what cannot be used, and SettingsError for a text
    that cannot be.
    """
    if given == "write" or not given.strip():
        return default_rubric()
    given = given.strip()
    if given == "write":  # with spaces around it, nobody writes it
        raise SettingsError('reward.rubric = "write": the rubric has not been written yet')
    if given.startswith("file:"):
        return read_rubric(path_from(folder, given.removeprefix("file:")))
    if is_file_name(given):
        raise SettingsError(f'reward.rubric is a text, and {given!r} is a file\'s name: write "file:{given}"')
    try:
        parse_criteria(given)
    except UserError as error:
        raise SettingsError(f"reward.rubric, {error}") from None
    return given


def is_file_name(rubric: str) -> bool:
    """Whether a text can only be meant as the name of a text file: nobody judges by one word with a dot.

    >>> is_file_name("texts/rubric.md"), is_file_name("Be brief. See README.md")
    (True, False)
    """
    return re.fullmatch(r"\S+\.(md|markdown|txt|text)", rubric.strip(), re.I) is not None


def read_rubric(path: Path) -> str:
    """A rubric from a file; raises UserError that names the file and the line."""
    text = read_text(path, way_out="a rubric is a text file").strip()
    if not text:
        raise UserError(f"{path}: the rubric is empty; say what makes an answer good")
    try:
        parse_criteria(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return text


def parse_criteria(rubric: str) -> tuple[Criterion, ...]:
    """The criteria of a rubric; none where it is judged by as a whole.

    Raises UserError that names the line: a weight that is no number above 0, a name that is given twice, or
    that a reply could not tell from another, a criterion without a description, and one without a weight
    where others have one.

    >>> parse_criteria("Be kind.\\n- brief (weight 2): At most one sentence.")
    (Criterion(name='brief', weight=2.0, text='At most one sentence.'),)
    """
    found: dict[str, Criterion] = {}
    unweighted: list[int] = []
    for number, line in enumerate(rubric.splitlines(), 1):
        match = _WEIGHTED.fullmatch(line)
        if match is None:
            unweighted += [number] if _BULLET.match(line) else []
            continue
        try:
            criterion = _criterion(match["name"], match["weight"], match["text"])
        except ValueError as error:
            raise UserError(f"line {number}: {error}") from None
        if (other := found.get(criterion.plain)) is not None:
            raise UserError(f"line {number}: {_twins(criterion, other)}")
        found[criterion.plain] = criterion
    if found and unweighted:
        raise UserError(
            f"line {unweighted[0]}: this criterion has no weight, others have; write {_CRITERION}"
        )
    return tuple(found.values())


def without_weights(rubric: str) -> str:
    """The rubric as judges read it: they score each criterion by itself, and the weights are ours."""
    lines = []
    for line in rubric.splitlines():
        match = _WEIGHTED.fullmatch(line)
        lines.append(f"- {match['name']}: {match['text'].strip()}" if match else line)
    return "\n".join(lines)


async def write_rubric(task: str, client: Client) -> str:
    """A rubric of LEAST to MOST weighted criteria for the task, written by `client`.

    Raises MachineError where it cannot be had.
    """
    text = fill(load_text(TEXTS, "rubric_write.md"), {"task": task, "least": LEAST, "most": MOST})
    messages: tuple[Message, ...] = ({"role": "user", "content": text},)
    request = Request(messages=messages, purpose="rubric", temperature=_TEMPERATURE, schema=_SCHEMA)
    try:
        criteria = await ask(client, request, _read_criteria)
    except CallFailed as error:
        raise MachineError(
            f"{client.model} wrote no rubric that can be used: {error} Start a new run with your own, as "
            "text or as file:PATH in reward.rubric."
        ) from error
    return "\n".join(criterion.line for criterion in criteria)


def _read_criteria(value: Any) -> list[Criterion]:
    entries = value.get("criteria") if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unusable('The reply must be an object with a list "criteria" of objects.')
    if not LEAST <= len(entries) <= MOST:
        raise Unusable(f"There are {len(entries)} criteria; write from {LEAST} to {MOST}.")
    found: list[Criterion] = []
    for number, entry in enumerate(entries, 1):
        try:
            new = _criterion(entry.get("name"), entry.get("weight"), entry.get("description"))
        except ValueError as error:
            raise Unusable(f"Criterion {number}: {error}.") from None
        if (twin := next((old for old in found if old.plain == new.plain), None)) is not None:
            raise Unusable(f"Criterion {number}: {_twins(new, twin)}.")
        found.append(new)
    return found


def _twins(new: Criterion, old: Criterion) -> str:
    """What is wrong with two criteria whose names a reply cannot tell apart."""
    if new.name.casefold() == old.name.casefold():
        return f"the criterion `{new.name}` is there twice"
    return f"the names `{old.name}` and `{new.name}` differ in signs alone; choose another for one of them"


def _criterion(name: object, weight: object, text: object) -> Criterion:
    """A checked criterion; raises ValueError with what is wrong."""
    called = " ".join(str(name or "").split())
    if not _NAME.fullmatch(called) or not plain_name(called):
        raise ValueError(
            f"the name `{called[:60]}` must be of letters, digits, spaces, - and _, at most 40 of them"
        )
    try:
        number = math.nan if isinstance(weight, bool) else float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"the weight of `{called}` must be a number above 0")
    wanted = " ".join(str(text or "").split())
    if not wanted:
        raise ValueError(f"`{called}` does not say what is wanted")
    return Criterion(name=called, weight=number, text=wanted)
