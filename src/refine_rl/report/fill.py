"""A page's template, filled in: every text that a person or a model wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from refine_rl.report import data
from refine_rl.report.asked import money
from refine_rl.report.dialogue import laid_out
from refine_rl.report.tiles import pieces


def fill(template: str, page: Mapping[str, Any]) -> str:
    """The template of that file name with the values of `page`, as HTML."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": data.number,
        "share": data.share,
        "duration": data.duration,
        "money": lambda bill: money(bill.dollars, bill.unknown),
        "cut": lambda text: data.cut(text, data.LONGEST_TEXT),
        "laid_out": laid_out,
        "pieces": pieces,
        "raw_json": Markup,
        "breakable": lambda name: Markup("_<wbr>").join(name.split("_")),  # a name, where it may be broken
    }
    html = data.plain(environment.from_string(file_of(template)).render(page))
    # Half a surrogate pair, which a model may write, cannot be stored as UTF-8.
    return html.encode("utf-8", "replace").decode("utf-8")


def file_of(name: str) -> str:
    """The text of a file of this folder."""
    return resources.files("refine_rl.report").joinpath(name).read_text(encoding="utf-8")
