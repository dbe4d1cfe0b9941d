"""The pictures of the report and of the page of votes in README.md, docs/report.md and docs/review.md, out of
a run's folder.

    refine demo --run runs/demo
    python benchmarks/pictures.py runs/demo

Needs Playwright's Chromium, or another one in the path. A picture is of the page as it is, 1,300 wide, in
light colours; those of single charts are cut out of it. The votes are given by this script, by keys, in a
copy of the run: for the answer with the higher reward, and on each seventh pair for the other one.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from refine_rl.evaluate.votes import Pair
from refine_rl.pipeline.review import Review
from refine_rl.report.page import render
from refine_rl.run import RunFolder

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH, ROOM = 1300, 14  # pixels: of the page, around what is cut out
SHOWN = 3  # the pair of which there is a picture
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
        voted_on(run, browser, Path(folder))
        browser.close()


def voted_on(run: RunFolder, browser: Any, folder: Path) -> None:
    """The page of votes: a pair, and what is told after the last."""
    shutil.copytree(run.path, folder / "runs" / "demo", ignore=shutil.ignore_patterns("votes.jsonl"))
    with contextlib.chdir(folder):
        review = Review(RunFolder.open(Path("runs/demo")), "ada")
        with review.at(0) as address:
            page = browser.new_page(viewport={"width": WIDTH, "height": 410}, color_scheme="light")
            page.goto(address)
            page.keyboard.press("Space")
            for number, pair in enumerate(review.pairs, start=1):
                at = f"{number} of {len(review.pairs)}"
                page.wait_for_function("t => document.getElementById('count').textContent === t", arg=at)
                if number == SHOWN:
                    page.screenshot(path=IMAGES / "review.png")
                page.keyboard.press(key_for(pair, page.inner_text("#left").strip(), odd=number % 7 == 0))
            page.wait_for_selector("#result", state="visible")
            page.set_viewport_size({"width": WIDTH, "height": 640})
            page.screenshot(path=IMAGES / "review-result.png")
            page.close()
    print(IMAGES / "review.png", IMAGES / "review-result.png")


def key_for(pair: Pair, left: str, *, odd: bool) -> str:
    """The key of a vote for the answer with the higher reward; of an odd one for the other."""
    if pair.judged not in ("base", "tuned"):
        return "ArrowDown"
    taken = pair.said(pair.judged)[-1]["content"].strip()  # type: ignore[arg-type]
    return "ArrowLeft" if (left == taken) != odd else "ArrowRight"


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
