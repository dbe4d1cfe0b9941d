"""A grammar of small Python functions and their one-line docstrings.

Its words are in `words.toml`, what functions of one value and of a list are made of is in `phrases.toml`, and
functions that stand as they are in `functions.toml`. A split owns templates: what a function does, by a hash,
decides to which split it belongs, whatever its names are. So held-out functions do what no function of
training does, though each part of it occurs there.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "held_out")
OBSCURE = 0.45
"""Share of the functions whose name says nothing about what they do."""
TYPED = 0.15
"""Share of the functions whose parameters have type annotations."""
_SLOT = re.compile(r"\{(\w+)\}")
_VERBS = {"be": ("is", "are"), "have": ("has", "have"), "match": ("matches", "match")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """A function, its docstring as it should be, the names of its parameters, and what it does: `template` is
    the same for functions that differ in names alone, `family` is its first part."""

    code: str
    docstring: str
    name: str
    parameters: tuple[str, ...]
    template: str

    @property
    def family(self) -> str:
        return self.template.partition("/")[0]

    @property
    def returns(self) -> bool:
        """Whether it returns or yields something."""
        return re.search(r"\b(return|yield)\b", self.code) is not None


def draw_function(rng: random.Random, split: str = "train") -> Function:
    """A random function of a split. Whole functions and conversions of units are always train's: nobody could
    know one that was never shown."""
    while True:
        (draw,) = rng.choices([draw for draw, _ in _FAMILIES], [share for _, share in _FAMILIES])
        sketch = draw(rng)
        if split_of(sketch.template) == split and len(set(sketch.parameters)) == len(sketch.parameters):
            return _written(rng, sketch)


def split_of(template: str) -> str:
    """The split that owns a template, by its hash: one in twenty is validation, two are held out."""
    if template.startswith(("fixed/", "units/")):
        return "train"
    bucket = hashlib.blake2b(template.encode(), digest_size=8).digest()[0] % 20
    return "validation" if bucket == 0 else "held_out" if bucket in (1, 2) else "train"


def random_name(rng: random.Random) -> str:
    """A parameter's name of any kind."""
    kinds = [kind for kind, names in data("words")["names"].items() if "{" not in names]
    return _Names(rng).new(rng.choice(kinds))


@cache
def data(name: str) -> Mapping[str, Any]:
    """What the file NAME.toml beside this one holds."""
    return tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its slots filled in one pass; slots without a value stay.

    >>> fill("{{e} for {v} in {L}}", {"e": "v + 1", "L": "items"})
    '{v + 1 for {v} in items}'
    """
    return _SLOT.sub(lambda slot: values.get(slot[1], slot[0]), template)


# -- names ---------------------------------------------------------------------------------------


class _Names:
    """Names that differ from each other, of one function."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.taken: set[str] = set()

    def new(self, kind: str, qualified: float = 0.3, slots: Mapping[str, str] = {}) -> str:
        """A name of a kind of `words.toml`, with another word before it in a share of the cases."""
        return self.of([fill(name, slots) for name in data("words")["names"][kind].split()], qualified)

    def of(self, names: Sequence[str], qualified: float) -> str:
        """One of these names."""
        while True:
            name = self._rng.choice(names)
            if self._rng.random() < qualified:
                name = f"{_other(self._rng, 'qualifiers')}_{name}"
            if name not in self.taken:
                self.taken.add(name)
                return name


def _other(rng: random.Random, kind: str) -> str:
    return rng.choice(str(data("words")["other"][kind]).split())


def _quoted(name: str) -> str:
    return f"`{name}`"


def _singular(word: str) -> str:
    words = data("words")
    known = {**words["singular"], **{many: thing["one"] for many, thing in words["things"].items()}}
    return str(known.get(word) or (word[:-3] + "y" if word.endswith("ies") else word[:-1]))


def _plural(word: str) -> str:
    if word.endswith("y") and len(word) > 1 and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch")) else "s")


# -- conditions and maps ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A condition or a map, its parameters filled in: `code` still has the slot {v}, `says`, `many` and `one`
    still have {it}."""

    key: str
    row: Mapping[str, str]
    code: str
    names: Mapping[str, str]  # by slot, a or b
    slots: Mapping[str, str]

    @property
    def parameters(self) -> list[str]:
        return list(self.names.values())

    def text(self, field: str, **values: str) -> str:
        """What the part says, with its parameters in backquotes."""
        quoted = {slot: _quoted(name) for slot, name in self.names.items()}
        return fill(self.row.get(field) or self.row["many"], {**self.slots, **quoted, **values})

    def condition(self, *, plural: bool) -> str:
        """What a condition says of one value, or of many."""

        def conjugated(verb: re.Match[str]) -> str:
            if verb[1] in _VERBS:
                return _VERBS[verb[1]][plural]
            return verb[1] if plural else f"{verb[1]}s"

        return re.sub(r"@(\w+)", conjugated, self.text("says"))


def _part(
    rng: random.Random,
    names: _Names,
    table: Mapping[str, Mapping[str, str]],
    slots: Mapping[str, str] = {},
    gives: str = "",
) -> _Part:
    """A random row of a table of conditions or maps (with `gives`, one that gives this), with new names."""
    key, row = rng.choice([(key, row) for key, row in table.items() if not gives or row["gives"] == gives])
    own = {slot: names.new(row[slot], slots=slots) for slot in "ab" if slot in row}
    return _Part(key=key, row=row, code=fill(row["code"], {**slots, **own}), names=own, slots=slots)


# -- the families ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sketch:
    """A function before it gets its header."""

    name: str
    parameters: tuple[str, ...]
    body: str
    docstring: str
    template: str


def _written(rng: random.Random, sketch: _Sketch) -> Function:
    name = sketch.name
    if not name.startswith("__"):
        name = _other(rng, "obscure") if rng.random() < OBSCURE else re.sub(r"_+", "_", name)
    typed = rng.random() < TYPED
    header = ", ".join(
        f"{p}: {_other(rng, 'type')}" if typed and p != "self" else p for p in sketch.parameters
    )
    body = "\n".join(f"    {line}" for line in sketch.body.split("\n"))
    return Function(
        code=f"def {name}({header}):\n{body}",
        docstring=re.sub(r"\ba (?=[aeio])", "an ", sketch.docstring),
        name=name,
        parameters=tuple(p for p in sketch.parameters if p != "self"),
        template=sketch.template,
    )


def _of_a_list(rng: random.Random) -> _Sketch:
    """What becomes of the items of a list: filtered, mapped, reduced."""
    names, phrases, words = _Names(rng), data("phrases"), data("words")
    kind = rng.choice(("number", "text", "thing"))
    base = rng.choice(list(words["things"]) if kind == "thing" else words["lists"][kind].split())
    slots = _attributes(rng, base) if kind == "thing" else {}
    items = names.of([base], 0.35)
    item = _singular(base) if rng.random() < 0.75 else _other(rng, "item")
    names.taken.add(item)
    key, row = rng.choice(list(phrases["reductions"].items()))
    mapped, filtered = _ingredients(rng, row, kind)
    condition = _part(rng, names, phrases["conditions"][kind], slots) if filtered else None
    change = _part(rng, names, phrases["maps"][kind], slots, row.get("of", "")) if mapped else None
    parts = [part for part in (change, condition) if part is not None]
    if rng.random() < 0.5:
        parts.reverse()
    extra = [names.new(row["extra"])] if "extra" in row else []
    parameters = (items, *(name for part in parts for name in part.parameters), *extra)
    test = fill(condition.code, {"v": item}) if condition else ""
    values = {
        "v": item,
        "L": items,
        "e": fill(change.code, {"v": item}) if change else item,
        "c": test,
        "if": f" if {test}" if test else "",
        "out": _unlike(_other(rng, "result"), {*parameters, item}),
        "s": "".join(extra),
    }
    detail = f"_{_called(change)}" if change and rng.random() < 0.6 else ""
    detail += f"_{condition.key}" if condition and rng.random() < 0.3 else ""
    said = _said_of_a_list(items, condition, change)
    return _Sketch(
        name=f"{row['name']}{detail}_{base}",
        parameters=parameters,
        body=_under(fill(rng.choice(row["code"]), values), test),
        docstring=fill(row["says"], {**said, "s": _quoted("".join(extra))}),
        template=f"list/{key}/{kind}/{change.key if change else '-'}/{condition.key if condition else '-'}",
    )


def _said_of_a_list(items: str, condition: _Part | None, change: _Part | None) -> dict[str, str]:
    the = f"the {_quoted(items)}"
    meant = change.text("many", it=the) if change else the
    many = condition.condition(plural=True) if condition else ""
    return {
        "X": f"{meant} that {many}" if many else meant,
        "P": the,
        "c1": condition.condition(plural=False) if condition else "",
        "c2": many,
        "M1": change.text("one", it="it") if change else "",
    }


def _unlike(name: str, others: set[str]) -> str:
    return name if name not in others else _unlike(f"{name}_", others)


def _attributes(rng: random.Random, things: str) -> dict[str, str]:
    """Slots of a number, a text and a flag of these things, and how code gets at them."""
    thing = data("words")["things"][things]
    access = rng.choice(("{v}.%s", "{v}['%s']"))
    slots: dict[str, str] = {}
    for slot, kind in (("n", "numbers"), ("t", "texts"), ("f", "flags")):
        word = rng.choice(thing[kind].split())
        slots |= {slot: word, f"{slot}s": _plural(word), slot.upper(): access % word}
    return slots


def _ingredients(rng: random.Random, row: Mapping[str, str], kind: str) -> tuple[bool, bool]:
    """Whether a reduction gets a map, and whether it gets a condition."""
    takes = row.get("takes", "")
    mapped = takes == "map" or row.get("of", kind) != kind
    mapped = mapped or (takes != "condition" and rng.random() < 0.55)
    filtered = takes == "condition" or (takes != "map" and rng.random() < 0.4)
    if takes == "either" and not mapped:
        filtered = True
    if mapped and filtered and kind != "thing" and rng.random() < 0.3:
        filtered = False
    return mapped, filtered


def _called(change: _Part) -> str:
    """A map's word in the name of a function; of a thing, what it reads."""
    return {"number": change.slots.get("n", ""), "text": change.slots.get("t", "")}.get(
        change.key, change.key
    )


def _under(body: str, condition: str) -> str:
    """The body with what stands behind a ? put under the condition, where there is one."""
    lines = []
    for line in body.split("\n"):
        indent, mark, rest = line.partition("?")
        if not mark or indent.strip():
            lines.append(line)
        elif condition:
            lines += [f"{indent}if {condition}:", f"{indent}    {rest}"]
        else:
            lines.append(indent + rest)
    return "\n".join(lines)


def _of_one_value(rng: random.Random) -> _Sketch:
    """A condition or a map of one value, or of the keys or values of a mapping."""
    names, phrases = _Names(rng), data("phrases")
    kind = rng.choice(("number", "text"))
    frames = phrases["frames"]
    (key,) = rng.choices(list(frames), [row.get("weight", 1) for row in frames.values()])
    row, code = frames[key], rng.choice(frames[key]["code"])
    over = row.get("of", "")
    first = names.new("mapping" if over else kind)
    value = over[0] if over else first
    slots = set(_SLOT.findall(code))
    conditions, maps = phrases["conditions"][kind], phrases["maps"][kind]
    condition = _part(rng, names, conditions) if slots & {"c", "truth"} else None
    change = _part(rng, names, maps, gives=kind if "m2" in slots else "") if "m" in slots else None
    second = _part(rng, names, maps) if "m2" in slots else None
    default = [names.new("default")] if "d" in slots else []
    error = _other(rng, "error")
    parts = [part for part in (condition, change, second) if part is not None]
    said: dict[str, str] = {"V": _quoted(first), "D": _quoted("".join(default)), "error": error}
    values = {"v": value, "L": first, "d": "".join(default), "error": error}
    if condition:
        values["c"] = fill(condition.code, {"v": value})
        values["truth"] = fill(condition.row.get("truth", "{c}"), values)
        said |= {"c1": condition.condition(plural=False), "c2": condition.condition(plural=True)}
    if change:
        values["m"] = fill(change.code, {"v": value})
        said |= {"m1": change.text("one", it=_quoted(first)), "many": change.text("many", it=f"its {over}")}
    if second:
        values["m2"] = fill(second.code, {"v": "tmp"})
        said["m2s"] = second.text("one", it="it")
    keys = {"ck": condition, "mk": change, "m2k": second}
    called = {slot: part.key for slot, part in keys.items() if part is not None}
    return _Sketch(
        name=fill(row["name"], {**called, "v": value}),
        parameters=(first, *(name for part in parts for name in part.parameters), *default),
        body=fill(code, values),
        docstring=fill(row["says"], said),
        # Of keys and values nobody can tell the kind.
        template="/".join(["one", key, *([] if over else [kind]), *called.values()]),
    )


def _whole(rng: random.Random) -> _Sketch:
    """A function that stands as it is, but for the names of its parameters."""
    names = _Names(rng)
    name, (options, body, docstring) = rng.choice(list(data("functions")["fixed"].items()))
    parameters = tuple(names.of(option.split("/"), 0.15) for option in options.split())
    return _with_parameters(name, parameters, body, docstring, f"fixed/{name}")


def _method(rng: random.Random) -> _Sketch:
    """A method of an object that has things, a number, a text and a flag."""
    names, things = _Names(rng), data("words")["things"]
    name, (options, body, docstring) = rng.choice(list(data("functions")["methods"].items()))
    many = rng.choice(list(things))
    slots = {**_attributes(rng, many), "A": many, "a": things[many]["one"]}
    parameters = tuple(names.of(fill(option, slots).split("/"), 0.2) for option in options.split())
    called, body, docstring = (fill(text, slots) for text in (name, body, docstring))
    return _with_parameters(called, parameters, body, docstring, f"method/{docstring}", "self")


def _with_parameters(
    name: str, parameters: tuple[str, ...], body: str, docstring: str, template: str, *before: str
) -> _Sketch:
    code = {str(place): parameter for place, parameter in enumerate(parameters)}
    return _Sketch(
        name=name,
        parameters=(*before, *parameters),
        body=fill(body, code),
        docstring=fill(docstring, {place: _quoted(parameter) for place, parameter in code.items()}),
        template=template,
    )


def _units(rng: random.Random) -> _Sketch:
    """A conversion from one unit to another, rounded or not."""
    names = _Names(rng)
    key, code = rng.choice(list(data("functions")["units"].items()))
    before, after = key.split("_to_")
    value = rng.choice((before, before, "value", names.new("number", 0)))
    names.taken.add(value)
    body, docstring, parameters = (
        fill(code, {"v": value}),
        f"Convert {_quoted(value)} from {before} to {after}",
        [value],
    )
    docstring += " and return it"
    if rng.random() < 0.3:
        parameters.append(names.new("digits"))
        body = f"round({body}, {parameters[1]})"
        docstring += f", rounded to {_quoted(parameters[1])} digits"
    return _Sketch(
        name=key,
        parameters=tuple(parameters),
        body=f"return {body}",
        docstring=f"{docstring}.",
        template=f"units/{key}/{len(parameters)}",
    )


_FAMILIES: tuple[tuple[Callable[[random.Random], _Sketch], float], ...] = (
    (_of_a_list, 0.42),
    (_of_one_value, 0.24),
    (_whole, 0.18),
    (_method, 0.10),
    (_units, 0.06),
)
