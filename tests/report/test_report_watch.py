"""A watched run in a real browser: what changes on the page, and what stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from browsing import Visit, browser, needs_browser
from growing import Growing
from refine_rl.pipeline.watch import Watch
from refine_rl.run import RunFolder
from refine_rl.run.table import Table

__all__ = ["browser"]
pytestmark = needs_browser
SAYS = "text => document.getElementById('live-state').textContent.startsWith(text)"
STEP = "text => document.getElementById('live-steps')?.innerText === text"
HAS_ROLLOUTS = """step => {
    const source = document.getElementById("rollout-data");
    return source && JSON.parse(source.textContent).steps.some((s) => s.step === step);
}"""
REPORT_OF = "text => document.querySelector('h1')?.innerText.includes(text)"


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., RunFolder], hostile: Any
) -> RunFolder:
    """A run of 12 steps, of which the first group of step 1 tries to break out of the page."""
    folder = tmp_path_factory.mktemp("source") / "messages"
    return make_run(folder, steps=12, prompts_per_step=4, group_size=4, held_out=8, texts=hostile)


class Watched:
    """A growing run, and those who watch it."""

    def __init__(self, stack: ExitStack, browser: Any, source: RunFolder, folder: Path) -> None:
        self._stack, self._browser = stack, browser
        self.run = Growing(source, folder)
        self.serving = ExitStack()
        self.address = ""

    def serve(self, port: int = 0) -> None:
        self.address = self.serving.enter_context(Watch(self.run.folder).at(port))

    def visit(self, **context: Any) -> Visit:
        context = {"viewport": {"width": 1280, "height": 900}} | context
        visit = Visit(self._browser, self.address, **context)
        self._stack.callback(visit.context.close)
        return visit


@pytest.fixture
def watched(browser: Any, source: RunFolder, tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        made = Watched(stack, browser, source, tmp_path / "messages")
        stack.callback(made.run.let_go)
        stack.enter_context(made.serving)
        yield made


def test_from_before_its_beginning_to_its_end(watched: Watched) -> None:
    watched.serve()
    visit = watched.visit()
    page = visit.page
    assert "There is no run in " in page.inner_text("main")
    assert page.title() == "Waiting for the run to begin – messages – Re:Fine"
    watched.run.begin()
    visit.wait(SAYS, "Running")
    visit.wait(REPORT_OF, "0 of 120 steps")
    assert page.get_attribute("#live-state", "aria-live") == "polite"
    assert page.locator("#live [aria-live], #live [role=status], #live [role=alert]").count() == 1
    watched.run.to(3)
    visit.wait(STEP, "step 3 of 120")
    visit.wait(REPORT_OF, "3 of 120 steps")
    assert page.title() == "3/120 Running – messages – Re:Fine"
    assert page.locator("#live-newest summary").count() == 3
    assert page.inner_text("#live-newest h2") == "Newest groups, step 3"
    assert page.inner_text("#live-newest > p") == "and 1 more of this step"
    groups = [g for g in RunFolder(watched.run.folder).groups() if g["step"] == 3]
    page.click("#live-group-1 summary")
    said = page.locator("#live-group-1 li").all_inner_texts()
    for text, attempt in zip(said, groups[0]["trajectories"], strict=True):
        assert attempt["messages"][-1]["content"].split("\n")[0] in text
    page.click("#live-group-1 summary")
    watched.run.to(12)
    watched.run.end()
    visit.wait(SAYS, "Finished")
    visit.wait(REPORT_OF, "The tuned model is better")
    assert page.locator("#live-newest, #live-facts, #live-doing").count() == 0
    assert page.locator("#evidence .row").count() > 0
    assert visit.complaints == []
    assert {url.removeprefix(watched.address) for url in visit.requests} == {"", "strip"}


def test_what_a_person_does_survives_what_is_new(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(8)
    watched.serve()
    visit = watched.visit(viewport={"width": 1280, "height": 500})
    page = visit.page
    visit.wait(REPORT_OF, "8 of 120 steps")
    visit.wait(STEP, "step 8 of 120")
    page.evaluate("""() => {
        document.querySelectorAll("#events details, #settings details").forEach((d) => { d.open = true; });
        window.same = document.querySelector("#settings");
        document.querySelector("#events details summary").focus();
        document.getElementById("settings").scrollIntoView({ behavior: "instant" });
    }""")
    rows = page.locator("#events details tbody tr").count()
    place = "document.getElementById('settings').getBoundingClientRect().top"
    before = page.evaluate(place)
    run = RunFolder(watched.run.folder)
    for number in range(12):
        run.event("warning", f"w{number}", "A word that is new. " * 20, 8)
    visit.wait(f"() => document.querySelectorAll('#events details tbody tr').length === {rows + 12}")
    assert page.locator("#live-warnings li").count() == 6
    assert abs(page.evaluate(place) - before) <= 2  # though much came above it
    assert page.evaluate(
        "[...document.querySelectorAll('#events details, #settings details')].every((d) => d.open)"
    )
    assert page.evaluate("document.activeElement === document.querySelector('#events details summary')")
    assert page.evaluate("window.same === document.querySelector('#settings')")  # nothing in it is new
    watched.run.to(9)
    visit.wait(STEP, "step 9 of 120")
    visit.wait(REPORT_OF, "9 of 120 steps")
    assert abs(page.evaluate(place) - before) <= 2
    assert visit.complaints == []


def test_the_rollouts_stay_at_their_group(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(8)
    watched.serve()
    visit = watched.visit()
    page = visit.page
    visit.wait(REPORT_OF, "8 of 120 steps")
    page.focus("#step")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.select_option("#group", "2")
    at = page.inner_text("#where")
    assert at.startswith("Step 5, ")
    page.focus("#step")
    watched.run.to(10)
    visit.wait(HAS_ROLLOUTS, 10)
    assert page.inner_text("#where") == at
    assert page.evaluate("document.activeElement.id") == "step"
    page.click("#step-after")
    assert page.inner_text("#where").startswith("Step 6, ")
    page.focus("#step")
    page.keyboard.press("End")
    assert page.inner_text("#where").startswith("Step 10, ")
    assert visit.complaints == []


def test_what_was_typed_and_filtered_survives(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(4)
    watched.serve()
    visit = watched.visit()
    page = visit.page
    visit.wait(REPORT_OF, "4 of 120 steps")
    page.evaluate("document.querySelectorAll('#rollouts details').forEach((d) => { d.open = true; })")
    found = "document.getElementById('find-said').innerText"
    every = page.evaluate(found)
    page.select_option("#find-stop", "stop")
    page.fill("#find-reward-from", "0.1")
    page.click("#find-text")
    page.keyboard.type("the coffee", delay=5)
    page.keyboard.press("ArrowLeft")
    few = page.evaluate(found)
    assert 0 < int(few.split()[0]) < int(every.split()[0])
    assert page.locator("#find-list mark").count() > 0
    watched.run.to(8)
    visit.wait(HAS_ROLLOUTS, 8)
    assert page.input_value("#find-text") == "the coffee"
    assert page.input_value("#find-stop") == "stop"
    assert page.input_value("#find-reward-from") == "0.1"
    assert page.evaluate("[document.activeElement.id, document.activeElement.selectionStart]") == [
        "find-text",
        9,
    ]
    more = page.evaluate(found)
    assert int(few.split()[0]) < int(more.split()[0])  # of the new steps too, by the same filters
    page.keyboard.type("!")
    assert page.input_value("#find-text") == "the coffe!e"
    assert page.evaluate(found) == "0 completions found on this page."
    assert visit.complaints == []


def test_a_part_in_use_waits(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(2)
    watched.serve()
    visit = watched.visit()
    page = visit.page
    visit.wait(REPORT_OF, "2 of 120 steps")
    page.evaluate("""() => {
        const text = document.querySelector("h1");
        document.getSelection().selectAllChildren(text);
        window.selected = text;
    }""")
    watched.run.to(4)
    visit.wait(HAS_ROLLOUTS, 4)  # what is not in use does not wait
    assert page.evaluate("document.querySelector('h1') === window.selected")
    assert "2 of 120 steps" in page.evaluate("document.getSelection().toString()")
    page.evaluate("document.getSelection().removeAllRanges()")
    visit.wait(REPORT_OF, "4 of 120 steps")


def test_an_open_group_stays_until_it_is_closed(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(2)
    watched.serve()
    visit = watched.visit()
    page = visit.page
    visit.wait(REPORT_OF, "2 of 120 steps")
    page.click("#live-group-2 summary")
    watched.run.to(4)
    visit.wait(STEP, "step 4 of 120")
    visit.wait("() => document.querySelector('.live-held')")
    assert page.inner_text("#live-newest h2") == "Newest groups, step 2"
    page.click("#live-group-2 summary")
    visit.wait("() => document.querySelector('#live-newest h2').textContent === 'Newest groups, step 4'")
    assert page.locator(".live-held").count() == 0


def test_a_lost_connection_is_said_and_comes_back(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(2)
    watched.serve()
    visit = watched.visit()
    page = visit.page
    visit.wait(REPORT_OF, "2 of 120 steps")
    page.evaluate("window.still = 'here'")
    port = int(watched.address.rstrip("/").rpartition(":")[2])
    watched.serving.close()
    visit.wait(SAYS, "Connection lost at ")
    assert "The run does not depend on it" in page.inner_text("#live-lost")
    assert "unreached" in (page.get_attribute("#live", "class") or "").split()
    watched.run.to(3)
    watched.serving = ExitStack()
    watched.serve(port)
    visit.wait(STEP, "step 3 of 120")
    visit.wait(SAYS, "Running")
    visit.wait(REPORT_OF, "3 of 120 steps")
    assert page.locator("#live-lost").count() == 0
    assert "unreached" not in (page.get_attribute("#live", "class") or "").split()
    assert page.evaluate("window.still") == "here"  # it was not loaded anew
    watched.serving.close()


def test_a_process_that_is_gone_and_one_that_takes_the_run_up(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(2)
    watched.serve()
    visit = watched.visit()
    visit.wait(SAYS, "Running")
    watched.run.die()
    visit.wait(SAYS, "Broken off")
    assert "refine train --resume " in visit.page.inner_text("#live-why")
    with RunFolder(watched.run.folder).writing():
        visit.wait(SAYS, "Running")
        watched.run.to(3)
        visit.wait(STEP, "step 3 of 120")


def test_stopped_by_a_guard(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(2)
    watched.serve()
    visit = watched.visit()
    visit.wait(SAYS, "Running")
    RunFolder(watched.run.folder).event("guard", "budget", "The budget of $1 is used up.")
    watched.run.let_go()
    visit.wait(SAYS, "Stopped by the guard “budget”")
    visit.wait(REPORT_OF, "Stopped by the guard “budget”")
    assert visit.page.inner_text("#live-why") == "The budget of $1 is used up."
    assert visit.page.locator("#live-warnings .guard").count() == 0  # it is said once


def test_what_models_wrote_stays_text(watched: Watched, hostile: tuple[str, ...]) -> None:
    watched.run.begin()
    watched.run.to(1)
    RunFolder(watched.run.folder).event("warning", hostile[1], hostile[0], 1)
    watched.serve()
    visit = watched.visit()
    page = visit.page
    visit.wait(REPORT_OF, "1 of 120 steps")
    page.click("#live-group-1 summary")
    said = page.locator("#live-group-1 li > span").all_inner_texts()
    assert said[:2] == list(hostile[:2])
    assert hostile[0] in page.inner_text("#live-warnings")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert visit.complaints == []


def test_the_page_may_ask_nobody_else(watched: Watched, source: RunFolder) -> None:
    watched.run.begin()
    watched.serve()
    visit = watched.visit()
    visit.wait(REPORT_OF, "0 of 120 steps")
    assert visit.page.evaluate("fetch('strip').then((reply) => reply.status)") == 200
    for url in ("http://127.0.0.1:9/", "https://example.com/"):
        refused = visit.page.evaluate("url => fetch(url).then(() => 'came', () => 'refused')", url)
        assert refused == "refused"
    assert sum("Content Security Policy" in text for text in visit.complaints) >= 2


@pytest.mark.parametrize("width", [1300, 390])
def test_it_fits_a_screen_and_a_phone(watched: Watched, width: int) -> None:
    watched.run.begin()
    watched.run.to(3)
    RunFolder(watched.run.folder).event("warning", "missing", "https://scores.example/" + "a" * 200, 1)
    watched.serve()
    visit = watched.visit(viewport={"width": width, "height": 844})
    page = visit.page
    visit.wait(REPORT_OF, "3 of 120 steps")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("window.scrollTo({ top: 3000, behavior: 'instant' })")
    bar = page.locator("#live-bar").bounding_box()
    assert bar is not None
    assert bar["y"] == 0  # it stays in sight
    assert bar["height"] < 90


def test_a_damaged_line_is_named_and_the_page_stays(watched: Watched) -> None:
    watched.run.begin()
    watched.run.to(2)
    watched.serve()
    visit = watched.visit()
    visit.wait(REPORT_OF, "2 of 120 steps")
    table: Table[Any] = RunFolder(watched.run.folder).metrics
    with table.path.open("a") as file:
        file.write("no line\n")
    visit.wait("() => document.getElementById('live-trouble')?.textContent.includes('metrics.jsonl:3')")
    assert "2 of 120 steps" in visit.page.inner_text("h1")
    table.path.write_bytes(table.path.read_bytes().removesuffix(b"no line\n"))
    visit.wait("() => !document.getElementById('live-trouble')")
    watched.run.to(3)
    visit.wait(REPORT_OF, "3 of 120 steps")
