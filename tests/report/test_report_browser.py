"""The page in a real browser: what a person sees, can reach and is safe from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from games import games_run
from refine_rl.llm.client import Call
from refine_rl.report.page import render
from refine_rl.run import RunFolder

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(run: RunFolder) -> Path:
    return run.save_report(render(run))


class Visit:
    """An open page and all that it asked for or complained about."""

    def __init__(self, browser: Any, report: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(report.as_uri())

    def texts(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_inner_texts())


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    opened = Visit(browser, report, viewport={"width": 1280, "height": 900})
    yield opened
    opened.context.close()


def test_the_page_opens_without_a_request_or_a_complaint(visit: Visit, report: Path) -> None:
    assert visit.requests == [report.as_uri()]
    assert visit.complaints == []
    assert visit.page.locator("h1").inner_text().startswith("The tuned model is better: reward 0.")


def test_plots_and_tables_are_really_there(visit: Visit, run: RunFolder) -> None:
    svgs = visit.page.locator("figure.plot svg")
    assert svgs.count() == 15
    for svg in svgs.all():
        box = svg.bounding_box()
        assert box is not None
        assert box["width"] > 250
        assert box["height"] > 120
        drawn = svg.locator("path").first.evaluate("path => path.getTotalLength()")
        assert drawn > 0
    assert visit.page.locator(".intervals .row").count() == 8
    assert visit.page.locator(".evidence table.numbers tbody tr").count() == 8
    assert visit.texts(".evidence table.numbers thead th") == ["Measure", "Base", "Tuned", "Difference"]
    comparison = run.comparison()
    assert comparison is not None
    assert visit.page.locator("table.cards tbody tr").count() == len(comparison.examples) == 24
    assert visit.texts("table.cards tbody tr:first-child .text")[:2] == [
        comparison.examples[0].prompt,
        comparison.examples[0].base,
    ]
    dot = visit.page.locator(".track.tuned .dot").first.bounding_box()
    axis = visit.page.locator(".axis").first.bounding_box()
    assert dot is not None
    assert axis is not None
    place = (dot["x"] + dot["width"] / 2 - axis["x"]) / axis["width"]
    assert place == pytest.approx(comparison.tuned.mean, abs=0.01)


def test_what_models_wrote_stays_text(visit: Visit, hostile: tuple[str, ...]) -> None:
    page = visit.page
    shown = [text.replace("\u2028", "\n") for text in visit.texts("#members .text")[:3]]
    assert shown[:2] == list(hostile[:2])
    assert "{{ 7*7 }}" in shown[2]
    assert hostile[0] in visit.texts("table.cards .text")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert visit.complaints == []


def test_the_policy_of_the_page_refuses_foreign_scripts_and_requests(visit: Visit) -> None:
    page = visit.page
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        const image = document.createElement("img");
        image.src = "http://127.0.0.1:9/x.png";
        image.setAttribute("onerror", "window.hacked = 2");
        document.body.append(script, image);
    }""")
    for _ in range(300):
        page.wait_for_timeout(200)
        refused = [text for text in visit.complaints if "Content Security Policy" in text]
        if len(refused) >= 2:
            break
    assert len(refused) >= 2
    assert page.evaluate("window.hacked") is None


def first_reward(visit: Visit) -> str:
    return str(visit.page.locator("#members .head strong").first.inner_text())


def test_rollouts_are_browsed_by_click(visit: Visit, run: RunFolder) -> None:
    groups = list(run.groups())
    page = visit.page
    assert "Step 1, " in page.locator("#where").inner_text()
    page.click("#step-after")
    page.click("#group-after")
    group = groups[3 + 1]  # three groups a step
    assert f"Step 2, prompt {group['prompt_id']}: mean reward" in page.locator("#where").inner_text()
    assert page.locator("#members li").count() == 4
    member = group["trajectories"][0]
    assert first_reward(visit) == f"reward {member['reward']:.2f}"
    card = page.locator("#members li").first.inner_text()
    assert member["messages"][-1]["content"] in card
    assert member["explanation"] in card
    assert f"{member['breakdown']['keeps']:.2f}" in card
    assert f"advantage {member['advantage']:+.2f}".replace("-", "−") in card
    assert page.locator("#context .text").inner_text() == member["messages"][0]["content"]
    page.select_option("#group", "2")
    assert f"Step 2, prompt {groups[5]['prompt_id']}" in page.locator("#where").inner_text()
    page.click("#step-before")
    page.click("#step-before", force=True)  # there is nothing before the first step
    assert "Step 1, " in page.locator("#where").inner_text()


def test_rollouts_are_browsed_by_keyboard(visit: Visit, run: RunFolder) -> None:
    groups = list(run.groups())
    page = visit.page
    page.focus("#step")
    page.keyboard.press("End")
    assert "Step 60, " in page.locator("#where").inner_text()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#step-shown").inner_text() == "59"
    assert page.locator("#step").get_attribute("aria-valuetext") == "step 59"
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["step-after", "group-before", "group", "group-after"]
    page.keyboard.press("Enter")
    assert f"prompt {groups[58 * 3 + 1]['prompt_id']}" in page.locator("#where").inner_text()
    page.keyboard.press("Home")
    page.focus("#step")
    page.keyboard.press("Home")
    assert "Step 1, " in page.locator("#where").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, report: Path, scheme: str) -> None:
    phone = Visit(browser, report, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for details in phone.page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
    svg = phone.page.locator("figure.plot svg").first.bounding_box()
    assert svg is not None
    assert svg["width"] > 300
    assert phone.page.locator("table.cards thead").first.is_visible() is False
    for table in ("times", "by-facet", "events", "coverage:not(.calls)", "numbers"):
        places = phone.page.locator(f".scroll:has(table.{table})").all()
        assert places
        for place in places:
            assert place.evaluate("e => e.scrollWidth <= e.clientWidth"), table  # nothing is out of sight
    assert phone.complaints == []
    phone.context.close()


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., RunFolder]) -> Path:
    """The report of a run that judges scored, a warning of which has a long word."""
    run = make_run(tmp_path_factory.mktemp("judged") / "run")
    run.calls.append(
        Call(
            purpose="judge",
            endpoint="local",
            model="a-judge-with-a-long-name-7b-instruct",
            tokens_in=1_234_567,
            tokens_out=34_567,
            cost_usd=1.25,
            seconds=1.0,
            outcome="unusable",
        )
    )
    run.event("warning", "missing_in_validation", "no answer of https://scores.example/" + "a" * 60, 3)
    return run.save_report(render(run))


STATE = """() => [...document.querySelectorAll(".scroll")].map((box) => ({
    over: box.scrollWidth > box.clientWidth,
    said: box.previousElementSibling?.matches(".hint") ? box.previousElementSibling.innerText : "",
    reached: box.tabIndex === 0, role: box.getAttribute("role"), name: box.ariaLabel,
}))"""
SIDEWAYS = "Wider than the page: the table scrolls sideways. →"


@pytest.mark.parametrize("width", [1300, 390, 300])
def test_a_table_says_that_it_scrolls_where_it_does(browser: Any, judged: Path, width: int) -> None:
    visit = Visit(browser, judged, viewport={"width": width, "height": 844})
    page = visit.page
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.wait_for_function("() => document.querySelector('.events .words').offsetWidth > 0")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    tables = page.evaluate(STATE)
    assert len(tables) >= 7
    words = page.locator(".events .words").first.bounding_box()
    assert words is not None
    assert words["width"] > 250  # on a phone below the rest of its row, and in sight
    assert words["x"] + words["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert any(table["over"] for table in tables) is (width < 1300)
    for table in tables:
        assert table["said"] == (SIDEWAYS if table["over"] else ""), table
        assert table["reached"] is table["over"], table
        assert table["role"] == "region"
        assert table["name"].startswith(("Table of ", "Warnings", "All events"))
    if width < 1300:
        calls = page.locator(".scroll:has(table.calls)")
        calls.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.querySelector('.scroll:has(table.calls)').scrollLeft > 0")
        page.set_viewport_size({"width": 1300, "height": 844})
        page.wait_for_function("() => document.querySelectorAll('.hint').length === 0")
        assert not any(table["reached"] for table in page.evaluate(STATE))
    assert visit.complaints == []
    visit.context.close()


def test_a_text_that_goes_on_says_so(visit: Visit) -> None:
    page = visit.page
    assert page.locator(".hint").count() == 0
    page.evaluate("document.querySelector('.cards .text').textContent = 'line\\n'.repeat(100)")
    page.wait_for_selector(".cards .text + .hint")
    assert visit.texts(".hint") == ["The text goes on: it scrolls. ↓"]
    page.locator(".cards .text").first.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelector('.cards .text').scrollTop > 0")


def test_tables_are_reached_without_the_script_too(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, viewport={"width": 390, "height": 844}, java_script_enabled=False)
    scrolls = visit.page.locator(".scroll")
    assert scrolls.count() >= 6
    for box in scrolls.all():
        assert box.get_attribute("tabindex") == "0"
        assert box.get_attribute("role") == "region"
    visit.context.close()


CONTRAST = """(selector) => {
    const read = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const light = (rgb) => rgb.map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const style = getComputedStyle(document.querySelector(selector));
    const ink = light(read(selector.includes(" text") ? style.fill : style.color));
    const paper = light(read(getComputedStyle(document.body).backgroundColor));
    return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), paper];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_letters_of_plots_stand_out_in_both_schemes(
    browser: Any, report: Path, scheme: str
) -> None:
    visit = Visit(browser, report, color_scheme=scheme)
    for selector in ("h1", ".claim", ".lead", "dt", ".ci", ".reward.base", ".reward.tuned", ".plot text"):
        contrast, paper = visit.page.evaluate(CONTRAST, selector)
        assert contrast >= 4.5, selector
        assert (paper < 0.1) is (scheme == "dark")
    visit.context.close()


def test_everything_has_a_name_for_who_cannot_see_it(visit: Visit) -> None:
    page = visit.page
    for picture in page.locator("[role=img]").all():
        assert len(picture.get_attribute("aria-label") or "") > 20
    for table in page.locator("table").all():
        assert table.locator("caption").inner_text() or not table.is_visible()
    for control in page.locator("button, input, select").all():
        named = "e => Boolean(e.ariaLabel || (e.labels && e.labels.length))"
        assert control.evaluate(named)
    assert page.locator("main").count() == page.locator("h1").count() == page.locator("nav").count() == 1
    targets = page.eval_on_selector_all("nav a", "links => links.map((a) => a.getAttribute('href'))")
    assert len(targets) == 8
    for target in targets:
        assert page.locator(target).count() == 1


def test_no_id_is_used_twice(visit: Visit) -> None:
    ids = visit.page.eval_on_selector_all("[id]", "elements => elements.map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_a_game_is_shown_turn_by_turn(browser: Any, tmp_path: Path, hostile: tuple[str, ...]) -> None:
    games = games_run(tmp_path / "games", hostile[0])
    visit = Visit(browser, games.save_report(render(games)), viewport={"width": 390, "height": 844})
    page = visit.page
    first = page.locator("#members > li").first
    assert first.locator(".said").all_inner_texts() == ["25", "33", "29"]
    assert first.locator(".heard").all_inner_texts() == ["higher", "lower", "right"]
    assert first.locator(".given").all_inner_texts() == ["0.00", "0.00", "+1.00"]
    heads = page.locator("#members > li > .head").all_inner_texts()
    assert "3 turns" in heads[0]
    assert "2 turns, ended by a limit" in heads[2]
    assert "1 turn, the world failed" in heads[3]
    assert "step raised ValueError: no such number" in page.locator("#members > li").nth(3).inner_text()
    page.click("#group-after")
    long = page.locator("#members > li").first
    assert long.locator("summary").inner_text() == "6 more turns"
    assert long.locator(".exchange").count() == 12
    assert long.locator(".tile").first.inner_text() == "C"
    assert long.locator(".tile.green").first.evaluate("e => getComputedStyle(e).backgroundColor") == (
        "rgb(47, 125, 71)"
    )
    assert page.locator("#members > li").nth(1).locator(".said").first.inner_text() == hostile[0]
    assert page.locator("#examples .exchange .said").first.inner_text() == "CRANE 0"
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.complaints == []
    visit.context.close()
