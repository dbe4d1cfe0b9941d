"""A page's template, filled in: every text that a person or a model wrote is escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from refine_rl.report import data
from refine_rl.report.asked import money
from refine_rl.report.chart import Chart
from refine_rl.report.dialogue import laid_out
from refine_rl.report.rollouts import for_script
from refine_rl.report.tiles import pieces

_SCRIPTS = ("page.js", "charts.js", "answers.js", "rollouts.js")


def fill(template: str, page: Mapping[str, Any]) -> str:
    """The template of that file name with the values of `page`, as HTML."""
    html = data.plain(_environment().get_template(template).render(page))
    # Half a surrogate pair, which a model may write, cannot be stored as UTF-8.
    return html.encode("utf-8", "replace").decode("utf-8")


def fill_page(template: str, page: Mapping[str, Any]) -> str:
    """The page of that template, with its style, and its script, which its own policy knows by the hash."""
    inside = "\n".join(map(file_of, _SCRIPTS))
    script = f'(() => {{\n"use strict";\n{inside}}})();'
    return fill(
        template,
        {
            **page,
            "style": Markup(file_of("page.css")),
            "script": Markup(script),
            "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        },
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(file_of),
    )
    environment.filters |= {
        "number": data.number,
        "share": data.share,
        "duration": data.duration,
        "money": lambda bill: money(bill.dollars, bill.unknown),
        "cut": lambda text: data.cut(text, data.LONGEST_TEXT),
        "shortly": _shortly,
        "laid_out": laid_out,
        "pieces": pieces,
        "raw": Markup,
        "anchor": lambda name: re.sub(r"[^\w.-]", lambda found: f"x{ord(found[0]):x}.", name),
        "numbers_of": _numbers_of,
        "breakable": lambda name: Markup("_<wbr>").join(name.split("_")),  # a name, where it may be broken
    }
    return environment


def _shortly(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119].rsplit(" ", 1)[0] + " …"


def _numbers_of(charts: Sequence[Chart]) -> str:
    return for_script({chart.name: chart.data for chart in charts})


def file_of(name: str) -> str:
    """The text of a file of this folder."""
    return resources.files("refine_rl.report").joinpath(name).read_text(encoding="utf-8")
