"""Answers to imitate: rows of a source -> `Demonstration`s, and which of them validate.

A row is a pair (a prompt and its answer) or a whole chat. Rows that ask the same belong to the same split,
so that no question of validation is trained on; which those are follows from their texts and the seed, never
from their places in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.progress import Pause, never
from refine_rl.prompts.candidates import SPLITS, RowError, checked_messages
from refine_rl.prompts.columns import beside, nearest_column
from refine_rl.prompts.curate import said
from refine_rl.prompts.files import told
from refine_rl.prompts.json_rows import NoColumnError
from refine_rl.prompts.rows import read_rows
from refine_rl.settings import SFTSettings
from refine_rl.types import Demonstration, Message, Prompt, Split, count_of

_ANSWERS = ("answer", "completion", "response", "output", "chosen", "target", "summary", "docstring", "label")
MOST_VALIDATION = 100
"""Rows of validation without a number asked for: a tenth, and no more than these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The columns of a source: "" for the names that a column has anyhow."""

    prompt: str = ""
    answer: str = ""
    messages: str = ""

    def wrong(self, names: Sequence[str]) -> str:
        """What is wrong with a table, or a row, of these columns, or ""."""
        key, wanted = self._lacking(names)
        return _no_column(wanted, names, f"sft.{key}") if wanted else ""

    def _lacking(self, names: Sequence[str]) -> tuple[str, str]:
        """The setting that names a column which is not there, and the column; "" where none is lacking."""
        own = (("prompt", self.prompt), ("answer", self.answer), ("messages", self.messages))
        usual: tuple[tuple[str, str], ...] = (
            ("prompt", self.prompt or "prompt"),
            ("answer", self.answer or "answer"),
        )
        if self.messages or (not self.prompt and not self.answer and "messages" in names):
            usual = ()
        return next(((key, name) for key, name in (*own, *usual) if name and name not in names), ("", ""))

    def chat(self, row: object, system: str) -> tuple[tuple[Message, ...], frozenset[int]]:
        """The chat of a row, a system message before it where it has none; and the places of answers that are
        not to be imitated. Raises RowError."""
        if not isinstance(row, Mapping):
            raise RowError('is not an object: write {"prompt": "...", "answer": "..."}')
        if wrong := self.wrong(list(row)):
            _, wanted = self._lacking(list(row))
            raise NoColumnError(
                wrong, f"has no column `{wanted}`{beside(wanted, row, _meant(wanted, list(row)))}"
            )
        own = self.messages or ("messages" if not self.prompt and not self.answer else "")
        given: frozenset[int] = frozenset()
        if own and row.get(own) is not None:
            messages, given = _chat(row[own], own)
        else:
            messages = (
                *_asked(row[self.prompt or "prompt"], self.prompt or "prompt"),
                *_answered(row[self.answer or "answer"], self.answer or "answer"),
            )
        if not any(m["role"] == "assistant" for m in messages[1:]):
            raise RowError("has no answer of the assistant")
        if any(m["role"] == "system" for m in messages[1:]):
            raise RowError("has a system message that is not the first message")
        if not any(n and m["role"] == "assistant" and n not in given for n, m in enumerate(messages)):
            raise RowError('has no answer to imitate: each has "train": false')
        if system and messages[0]["role"] != "system":
            return (Message(role="system", content=system), *messages), frozenset(n + 1 for n in given)
        return messages, given


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Demonstrations of a source, with lines for people about what was left out; `sha256` is of all that was
    read, in its order."""

    rows: tuple[Demonstration, ...]
    lines: tuple[str, ...]
    sha256: str


def load_demonstrations(
    sft: SFTSettings, folder: Path, without: Sequence[Prompt] = (), pause: Pause = never
) -> Shown:
    """What a run with these settings is shown; `folder` is the task's. See `read_demonstrations`."""
    return read_demonstrations(
        sft.data,
        folder,
        Names(prompt=sft.prompt, answer=sft.answer, messages=sft.messages),
        system=sft.system,
        validation=sft.validation,
        seed=sft.seed,
        without=without,
        pause=pause,
    )


def read_demonstrations(
    source: str,
    folder: Path,
    names: Names,
    *,
    system: str = "",
    validation: int | float | None = None,
    seed: int = 0,
    without: Sequence[Prompt] = (),
    pause: Pause = never,
) -> Shown:
    """All demonstrations of a source that `read_rows` knows, each with its split: train or validation.

    `validation` is how many rows validate, or their share of all; without it a tenth, up to 100. Where rows
    name splits themselves, those of "validation" do, and those of "held_out" are left out; so is what asks
    the same as a prompt of `without`. Raises what `read_rows` raises, and UserError that names the broken
    rows, for a source without rows, and where no row would be left to train on. `pause` is called before each
    row.
    """
    found: list[Demonstration] = []
    broken: list[tuple[str, RowError]] = []
    read = read_rows(source, folder, key="sft.data", wrong=names.wrong, seed=seed)
    digest = blake2b(digest_size=32)
    for name, row in read.rows:
        pause()
        try:
            if isinstance(row, RowError):
                raise row
            chat, given = names.chat(row, system)
            own = f"{read.origin}:{name}"
            shown = Demonstration(name=own, messages=chat, split=_split(row), given=given)
        except RowError as error:
            broken.append((name, error))
        else:
            places = f" {sorted(given)}" if given else ""
            digest.update(f"{shown.split} {shown.messages}{places}\n".encode(errors="surrogatepass"))
            found.append(shown)
    if broken:
        raise UserError(told(read.name, broken, all_alike=not found))
    if not found:
        raise UserError(f"{read.name}: there are no rows in it")
    kept, lines = _allowed(found, without)
    kept = _divided(kept, validation, seed) if kept else []
    validate = sum(shown.split == "validation" for shown in kept)
    if isinstance(validation, int) and validate < validation:
        lines.append(
            f"{validate} of the {validation} rows of sft.validation validate: rows that ask the same stay "
            "together"
        )
    if not any(shown.split == "train" for shown in kept):
        raise UserError(
            f"{read.name}: no row is left to train on ({'; '.join(lines) or 'all validate'}). Give more "
            "rows, or a smaller sft.validation."
        )
    return Shown(rows=tuple(kept), lines=tuple(lines), sha256=digest.hexdigest())


def _allowed(
    found: Sequence[Demonstration], without: Sequence[Prompt]
) -> tuple[list[Demonstration], list[str]]:
    """Without the held-out ones, and lines about them."""
    own = [shown for shown in found if shown.split != "held_out"]
    asked = {_question(prompt.messages) for prompt in without}
    kept = [shown for shown in own if asked.isdisjoint(_questions(shown))]
    lines = []
    if len(own) < len(found):
        lines.append(f"{count_of(len(found) - len(own), 'row')} left out: held out by their column `split`")
    if len(kept) < len(own):
        lines.append(
            f"{count_of(len(own) - len(kept), 'row')} left out: they ask what a held-out prompt asks"
        )
    return kept, lines


def _divided(
    found: Sequence[Demonstration], validation: int | float | None, seed: int
) -> list[Demonstration]:
    """Each with its split; those that ask the same have the same one."""
    named = {_questions(shown)[0] for shown in found if shown.split == "validation"}
    if named and validation is None:
        return [replace(s, split="validation" if _questions(s)[0] in named else "train") for s in found]
    wanted = len(found) * validation if isinstance(validation, float) else validation
    most = min(MOST_VALIDATION, len(found) // 10) if wanted is None else round(wanted)
    if most >= len(found):
        raise UserError(f"sft.validation = {validation}, but there are only {count_of(len(found), 'row')}.")
    alike: dict[str, int] = {}
    for shown in found:
        question = _questions(shown)[0]
        alike[question] = alike.get(question, 0) + 1
    chosen: set[str] = set()
    left = most
    for question in sorted(alike, key=lambda q: blake2b(f"{seed} {q}".encode(errors="replace")).digest()):
        if alike[question] <= left:
            chosen.add(question)
            left -= alike[question]
    return [replace(s, split="validation" if _questions(s)[0] in chosen else "train") for s in found]


def _question(messages: Sequence[Message]) -> str:
    """What an answer to these messages answers, in a form in which the same question is the same. What a
    system message says of the manner makes no other question."""
    return repr(said([m for m in messages if m["role"] != "system"]))


def _questions(shown: Demonstration) -> list[str]:
    """What each answer of a chat answers."""
    answers = [n for n, m in enumerate(shown.messages) if n and m["role"] == "assistant"]
    return [_question(shown.messages[:n]) for n in answers]


def _split(row: object) -> Split:
    """A row's own split, "test" being another word for held out; "train" where its column says nothing that
    we know."""
    own = row.get("split") if isinstance(row, Mapping) else None
    return "held_out" if own == "test" else next((split for split in SPLITS if split == own), "train")


def _chat(messages: object, column: str) -> tuple[tuple[Message, ...], frozenset[int]]:
    """A whole chat, and the places of its answers with "train": false."""
    if not isinstance(messages, list) or not messages:
        raise RowError(f"has a `{column}` that is not a list of {{role, content}}")
    given, plain = set(), []
    for place, message in enumerate(messages):
        if isinstance(message, Mapping) and "train" in message:
            if message.get("role") != "assistant":
                raise RowError(f'has a message {place + 1} with "train", and it is not the assistant\'s')
            if not isinstance(message["train"], bool):
                raise RowError(f'has a message {place + 1} whose "train" is neither true nor false')
            if not message["train"]:
                given.add(place)
            message = {name: value for name, value in message.items() if name != "train"}
        plain.append(message)
    return checked_messages(plain), frozenset(given)


def _asked(prompt: object, column: str) -> tuple[Message, ...]:
    if isinstance(prompt, list) and prompt:
        return checked_messages(prompt)
    return (Message(role="user", content=_text(prompt, column)),)


def _answered(answer: object, column: str) -> tuple[Message, ...]:
    if isinstance(answer, list) and answer:
        return checked_messages(answer)
    return (Message(role="assistant", content=_text(answer, column)),)


def _text(value: object, column: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()) or value == []:
        raise RowError(f"has an empty {column}")
    if not isinstance(value, str):
        raise RowError(f"has a `{column}` that is not text: {value!r:.60}")
    return value


def _no_column(wanted: str, names: Iterable[str], key: str) -> str:
    """That a column is not there; which there are, and the one that is probably meant."""
    there = list(names)
    listed = ", ".join(f"`{name}`" for name in there)
    near = _meant(wanted, there)
    own = f" ({key})" if wanted not in ("prompt", "answer") else ""
    advice = f': `{key.removeprefix("sft.")} = "{near}"` in [sft] takes `{near}`' if near else ""
    return f"has no column `{wanted}`{own}; there {'is' if len(there) == 1 else 'are'} {listed}{advice}"


def _meant(wanted: str, names: Sequence[str]) -> str:
    """The column that is probably meant by one that is not there, or ""."""
    near = nearest_column(wanted, names)
    if not near and wanted == "answer":
        near = next((word for word in _ANSWERS if word in names), "")
    return near
