"""Two models beside one another: the page, and the terminal at two widths."""

from __future__ import annotations

import io
import re

from rich.console import Console

from make import comparison, contrast, part
from refine_rl.evaluate.versus import Model, Versus
from refine_rl.report.versus import print_versus, render_versus
from refine_rl.types import Example

NASTY = "<script>alert(1)</script>\x1b[31m"
VERSUS = Versus(
    a=Model(name="old", run="runs/old", base="tiny", step=40, answers="on record", scores="on record"),
    b=Model(name="new & <b>", base=""),
    comparison=comparison(
        "better",
        contrast(0.25, 0.75),
        details={"greedy": contrast(0.5, 0.5), "component:style": contrast(0.1, 0.2)},
        facets={"tone": {"calm": part(40), "sad": part(4)}},
        examples=(Example(prompt=NASTY, base="from A", tuned="from B", base_reward=0.25, tuned_reward=None),),
    ),
    seed=3,
    left_out=("p1",),
)


def printed(width: int) -> list[str]:
    file = io.StringIO()
    print_versus(
        VERSUS, Console(file=file, width=width, force_terminal=True, color_system=None, soft_wrap=True)
    )
    return file.getvalue().splitlines()


def test_the_terminal() -> None:
    lines = printed(120)
    claim = "new & <b> (B) is better than old (A): reward 0.250 and 0.750, difference B less A +0.500"
    assert " ".join(lines[1:3]).startswith(f"{claim} [+0.450, +0.550] on 64 prompts")
    text = "\n".join(lines)
    assert "A  old: tiny tuned in runs/old, step 40; answers on record, scores on record" in text
    assert "B  new & <b>: not tuned here; answers anew, scores anew" in text
    rows = [line.split() for line in lines]
    assert ["A", "B", "B", "-", "A", "95", "%", "interval"] in rows
    assert ["Reward,", "sampled", "answers", "0.250", "0.750", "+0.500", "+0.450", "to", "+0.550"] in rows
    assert ["calm", "40", "0.250", "0.750", "+0.500", "+0.375", "to", "+0.625"] in rows
    assert "+ 1 on the page" in text  # too few prompts for an interval
    assert "Left out: 1 prompt that" in text
    assert "another seed gives another model" in text
    assert "\x1b" not in text
    assert "A       from A" in text
    assert max(map(len, printed(60))) <= 60


def test_the_page_runs_no_script_and_escapes_what_models_wrote() -> None:
    page = render_versus(VERSUS)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert "new &amp; &lt;b&gt; (B) is better than old (A):" in page
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert page.count('<th scope="col">B less A</th>') == 2
