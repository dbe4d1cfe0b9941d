"""The pictures of the report in README.md and docs/report.md, out of run folders.

    refine demo --run runs/demo
    python benchmarks/pictures.py runs/demo

Needs Playwright's Chromium, or another one in the path. A picture is of the page as it is, 1,300 wide, in
light colours; those of single charts are cut out of it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from refine_rl.report.page import render
from refine_rl.run import RunFolder

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH, ROOM = 1300, 14  # pixels: of the page, around what is cut out
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CUT = {  # file -> what is in it
    "report-evidence.png": ("#evidence h2", "#evidence .evidence"),
    "report-answers.png": ("#answers h2", "#answer-list > li:nth-child(2)"),
    "report-rewards.png": ("#chart-rewards",),
    "report-health.png": ("#chart-no-spread", "#chart-entropy"),
    "report-group.png": ("#where", "#members > li:nth-child(2)"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    run = RunFolder.open(parser.parse_args().run)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "report.html"
        page_file.write_text(render(run), encoding="utf-8")
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 830}, color_scheme="light")
        page.goto(page_file.as_uri())
        page.screenshot(path=IMAGES / "report.png")
        page.evaluate("() => { document.querySelector('nav').style.position = 'static'; }")
        page.evaluate("(link) => { location.hash = link; }", group_to_show(run))
        page.wait_for_timeout(500)
        for file, selectors in CUT.items():
            page.screenshot(path=IMAGES / file, full_page=True, clip=around(page, selectors))
            print(IMAGES / file)
        browser.close()


def group_to_show(run: RunFolder) -> str:
    """The link to a group in the middle of those of the prompt that was drawn most often."""
    drawn = [(group["step"], group["prompt_id"]) for group in run.groups.lines()]
    ((often, count),) = Counter(prompt for _, prompt in drawn).most_common(1)
    steps = [step for step, prompt in drawn if prompt == often]
    return f"#group-{steps[count // 2]}-{often}"


def around(page: Any, selectors: tuple[str, ...]) -> dict[str, float]:
    """The rectangle of the whole page in which all of these lie."""
    boxes = [
        page.locator(s).first.evaluate(
            "e => { const b = e.getBoundingClientRect(); return [b.left + scrollX, b.top + scrollY, b.right, "
            "b.bottom + scrollY]; }"
        )
        for s in selectors
    ]
    left, top = (min(box[n] for box in boxes) - ROOM for n in (0, 1))
    right, bottom = (max(box[n] for box in boxes) + ROOM for n in (2, 3))
    return {
        "x": max(0, left),
        "y": max(0, top),
        "width": min(WIDTH, right) - max(0, left),
        "height": bottom - top,
    }


if __name__ == "__main__":
    main()
