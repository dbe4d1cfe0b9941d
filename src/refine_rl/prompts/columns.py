"""Which columns of a file hold the prompt and the data of rewards, where they have names of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from refine_rl.prompts.json_rows import NoColumnError, RowError
from refine_rl.settings.toml_write import toml_key, toml_string

KNOWN = ("prompt", "messages", "id", "split", "facets", "data")
"""Columns with a meaning of their own."""
_PROMPTS = ("prompt", "messages", "text", "question", "instruction", "input", "query", "problem", "content")


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """`prompt`: the column that holds the prompt ("" where it is called `prompt` or `messages`). `data`: the
    name under which rewards see a column -> the column.

    >>> Columns(prompt="text", data={"answer": "label"}).applied({"text": "2 + 2", "label": 4})
    {'prompt': '2 + 2', 'answer': 4}
    """

    prompt: str = ""
    data: Mapping[str, str] = field(default_factory=dict)

    def missing(self, names: Iterable[str]) -> str:
        """What is wrong with a file or row that has columns of these names, or ""."""
        there = list(names)
        if self.prompt and self.prompt not in there:
            return f"has no column `{self.prompt}` (prompts.column){self.there(there)}"
        if not self.prompt and not {"prompt", "messages"} & set(there):
            return f"has no column `prompt` or `messages`{self.there(there)}"
        for new, old in self.data.items():
            if old not in there:
                near = nearest_column(old, there)
                way_out = f"; did you mean `{near}`?" if near else _listed(there)
                return f"has no column `{old}` (prompts.data.{toml_key(new)}){way_out}"
            if new in there and new not in self.data.values() and new != self.prompt:
                return f"has a column `{new}` already, which prompts.data would hide: choose another name"
        return ""

    def applied(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its columns under the names that they have for us. Raises RowError where one that is
        named is not there."""
        if not self.prompt and not self.data:
            return dict(row)
        if problem := self.missing(row):
            if self.prompt and self.prompt not in row:
                raise NoColumnError(problem, f"has no column `{self.prompt}`{beside(self.prompt, row)}")
            raise RowError(problem)
        moved = {*self.data.values(), *([self.prompt] if self.prompt else [])}
        rest = {name: value for name, value in row.items() if name not in moved}
        found: dict[str, Any] = {}
        if self.prompt:
            asked = row[self.prompt]
            # A chat and a text may both stand beside the column that is named: then they are data.
            aside = {name: rest.pop(name) for name in ("prompt", "messages") if name in rest}
            found["messages" if isinstance(asked, list) else "prompt"] = asked
            if aside:
                data = rest.pop("data", {})
                found["data"] = {**aside, **(data if isinstance(data, Mapping) else {"data": data})}
        return {**found, **rest, **{new: row[old] for new, old in self.data.items()}}

    def there(self, names: Iterable[str]) -> str:
        """The end of an error about a missing prompt: the columns that are there, and how to name one."""
        others = [name for name in names if name not in KNOWN]
        if not others:
            return ""
        near = others[0] if len(others) == 1 else nearest_column(self.prompt or "prompt", others)
        way_out = f"column = {toml_string(near)}" if near else 'column = "NAME"'
        return f"{_listed(others)}: `{way_out}` in [prompts] takes {f'`{near}`' if near else 'one of them'}"


AS_THEY_ARE = Columns()


def nearest_column(wanted: str, names: Iterable[str]) -> str:
    """The name that is most probably meant, or "": a slip, or another word for the same.

    >>> nearest_column("prompt", ["label", "Question"]), nearest_column("txt", ["label", "text"])
    ('Question', 'text')
    """
    there = {name.strip().lower(): name for name in reversed(list(names))}
    if wanted.lower() in there:
        return there[wanted.lower()]
    if close := get_close_matches(wanted.lower(), there, n=1, cutoff=0.75):
        return there[close[0]]
    return next((there[word] for word in _PROMPTS if word in there), "") if wanted in _PROMPTS else ""


def beside(wanted: str, names: Iterable[str], near: str = "") -> str:
    """The end of an error about a row that lacks what other rows have: what it has, and which of it is most
    probably meant (`near`, where that is known).

    >>> beside("prompt", ["promt", "label"])
    '; there are `promt`, `label`: call `promt` `prompt`, as other rows do'
    """
    there = list(names)
    near = near or next(iter(get_close_matches(wanted, there, n=1, cutoff=0.75)), "")
    return _listed(there) + (f": call `{near}` `{wanted}`, as other rows do" if near else "")


def _listed(names: Iterable[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names)
    return f"; there {'is' if shown.count('`') == 2 else 'are'} {shown}" if shown else ""
