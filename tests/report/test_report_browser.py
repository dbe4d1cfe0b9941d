"""The page in a real browser: what a person sees, can reach and is safe from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browsing import CONTRAST, Visit, browser, needs_browser
from games import games_run
from refine_rl.llm.client import Call
from refine_rl.report.page import render
from refine_rl.run import RunFolder

pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
pytestmark = needs_browser
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def report(run: RunFolder) -> Path:
    return run.save_report(render(run))


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    opened = Visit(browser, report.as_uri(), viewport={"width": 1280, "height": 900})
    yield opened
    opened.context.close()


def test_the_page_opens_without_a_request_or_a_complaint(visit: Visit, report: Path) -> None:
    assert visit.requests == [report.as_uri()]
    assert visit.complaints == []
    assert visit.page.locator("h1").inner_text().startswith("The tuned model is better: reward 0.")


def test_charts_and_tables_are_really_there(visit: Visit, run: RunFolder) -> None:
    plots = visit.page.locator("figure.chart .plot")
    assert plots.count() == 22
    widths = []
    for plot in plots.all():
        box = plot.bounding_box()
        assert box is not None
        assert box["height"] > 120
        widths.append(box["width"])
        drawn = plot.locator("path").nth(1).evaluate("path => path.getTotalLength()")
        assert drawn > 0
    assert widths[0] > 1000 > 700 > min(widths) > 250  # the reward is the large one, and the first
    assert visit.page.locator("main > section").first.get_attribute("id") == "curve"
    assert visit.page.locator(".intervals .row").count() == 8
    assert visit.page.locator(".evidence table.numbers tbody tr").count() == 8
    assert visit.texts(".evidence table.numbers thead th") == ["Measure", "Base", "Tuned", "Difference"]
    comparison = run.comparison()
    assert comparison is not None
    dot = visit.page.locator(".track.tuned .dot").first.bounding_box()
    axis = visit.page.locator(".intervals .axis").first.bounding_box()
    assert dot is not None
    assert axis is not None
    place = (dot["x"] + dot["width"] / 2 - axis["x"]) / axis["width"]
    assert place == pytest.approx(comparison.tuned.mean, abs=0.01)


def test_pointing_at_a_chart_gives_its_numbers(visit: Visit, run: RunFolder) -> None:
    plot = visit.page.locator("#chart-reward .plot")
    box = plot.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] * 20.2 / 60, box["y"] + 50)  # steps 0 to 60
    tip = visit.texts("#chart-reward .tip p")
    metrics, look = run.metrics()[19], run.validation()[2]
    assert tip[0] == "step 20"
    assert tip[1] == f"training, each step {metrics['reward_mean']:.2f}"
    low, high = look["reward"]["ci95"]
    assert tip[3] == f"validation, 95 % interval {look['reward']['mean']:.2f} {low:.2f} to {high:.2f}"
    assert visit.page.locator(".plot > .cross").count() == 18  # in every chart over the steps
    spot = visit.page.locator("#chart-reward .spot").first.bounding_box()
    assert spot is not None
    centre = 1 - (spot["y"] + spot["height"] / 2 - box["y"]) / box["height"]
    assert centre == pytest.approx(metrics["reward_mean"], abs=0.01)
    visit.page.mouse.move(5, 5)
    assert visit.page.locator(".tip, .cross, .spot").count() == 0


def test_a_chart_is_read_from_the_keyboard_and_leads_to_the_rollouts(visit: Visit, run: RunFolder) -> None:
    page = visit.page
    plot = page.locator("#chart-kl .plot")
    plot.focus()
    page.keyboard.press("Home")
    assert plot.get_attribute("role") == "slider"
    said = f"step 1, training {run.metrics()[0]['kl']:.2f}"
    assert (plot.get_attribute("aria-valuetext") or "").startswith(said)
    page.keyboard.press("ArrowRight")
    assert visit.texts("#chart-kl .tip .at") == ["step 2"]
    page.keyboard.press("Escape")
    assert page.locator(".tip").count() == 0
    page.keyboard.press("PageUp")
    assert visit.texts("#chart-kl .tip .at") == ["step 14"]  # ten values on: steps 5 and 6 have none
    page.keyboard.press("Enter")
    assert "Step 14, " in page.locator("#where").inner_text()
    assert page.evaluate("document.activeElement.id") == "step"
    page.locator("#chart-rewards .plot").focus()
    page.keyboard.press("End")
    assert visit.texts("#chart-rewards .tip")[0].startswith("steps 56 to 60, ")
    page.keyboard.press("Enter")
    assert "Step 56, " in page.locator("#where").inner_text()


def test_all_held_out_answers_are_there_a_page_at_a_time(visit: Visit, run: RunFolder) -> None:
    page = visit.page
    outcomes = run.outcomes("base"), run.outcomes("tuned")
    assert outcomes[0] is not None
    assert outcomes[1] is not None
    assert page.locator(".answer").count() == len(outcomes[0]) == 64
    assert page.locator(".answer:visible").count() == 10
    first = page.locator(".answer").first
    assert first.locator("h3 a").inner_text() == outcomes[0][0].prompt.id
    for side, (outcome, *_) in zip(("base", "tuned"), outcomes, strict=True):
        (trajectory, score) = outcome.greedy
        shown = first.locator(f"> .sides > .{side}")
        assert shown.locator(".text").inner_text() == trajectory.completion.strip()
        assert shown.locator(".reward").inner_text() == f"reward {score.value:.2f}"
        assert f"keeps {score.breakdown['keeps']:.2f}" in shown.locator(".split").inner_text()
        assert score.explanation in (shown.locator(".why").text_content() or "")
    first.locator("> details > summary").click()
    assert first.locator("details .sides .samples > li:visible").count() == 8
    page.click("#answer-after")
    assert page.locator("#answer-page").inner_text() == "page 2 of 7"
    assert page.locator(".answer:visible h3 a").first.inner_text() == outcomes[0][10].prompt.id
    for _ in range(6):
        page.locator("#answer-after").evaluate("button => button.click()")
    assert page.locator("#answer-page").inner_text() == "page 7 of 7"
    assert page.locator(".answer:visible").count() == 4


def test_answers_are_filtered_ordered_and_searched(visit: Visit) -> None:
    page = visit.page
    page.select_option("#answer-facet", "style: haiku")
    found = page.locator("#answer-found").inner_text()
    assert found == "11 of 64 prompts."
    assert all("style: haiku" in text for text in visit.texts(".answer:visible .facets"))
    page.select_option("#answer-facet", "")
    page.select_option("#answer-sense", "worse")
    count = int(page.locator("#answer-found").inner_text().split(" of ")[0])
    assert 2 <= count < 10
    assert visit.texts(".answer:visible .sense") == ["▼ worse"] * count
    page.select_option("#answer-sense", "")
    page.select_option("#answer-order", "loss")
    gains = page.eval_on_selector_all(
        ".answer:not([hidden])", "all => all.map((e) => Number(e.dataset.gain))"
    )
    assert gains == sorted(gains)
    page.fill("#answer-text", "QUIET friday")
    texts = visit.texts(".answer:visible .side:visible")
    assert any("Quiet Friday dawn" in text for text in texts)
    page.fill("#answer-text", "nobody says that")
    assert page.locator("#answer-found").inner_text() == "0 of 64 prompts."


def test_a_link_leads_to_an_answer_wherever_it_is(visit: Visit, browser: Any, report: Path) -> None:
    page = visit.page
    name = page.locator(".answer").nth(40).get_attribute("id")
    page.fill("#answer-text", "nobody says that")
    page.evaluate("(name) => { location.hash = name; }", name)
    page.wait_for_selector(f"#{name}:visible")
    assert page.locator("#answer-text").input_value() == ""
    again = Visit(browser, report.as_uri(), viewport={"width": 1280, "height": 900})
    again.page.goto(f"{report.as_uri()}#{name}")
    again.page.wait_for_selector(f"#{name}:visible")
    box = again.page.locator(f"#{name}").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 900
    again.context.close()


def test_what_models_wrote_stays_text(visit: Visit, hostile: tuple[str, ...]) -> None:
    page = visit.page
    shown = [text.replace("\u2028", "\n") for text in visit.texts("#members .text")[:3]]
    assert shown[:2] == list(hostile[:2])
    assert "{{ 7*7 }}" in shown[2]
    assert hostile[0] in visit.texts(".answer .text")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script:not([type])").count() == 1
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


def test_completions_are_searched_and_each_leads_to_its_group(visit: Visit, run: RunFolder) -> None:
    page = visit.page
    members = [(g, t) for g in run.groups.lines() for t in g["trajectories"]]

    def found() -> int:
        return int(page.locator("#find-said").inner_text().split()[0])

    page.click("#find > summary")
    assert found() == len(members)
    page.fill("#find-text", "hark!")
    assert found() == sum("hark!" in t["messages"][-1]["content"].lower() for _, t in members)
    assert visit.texts("#find-list mark")[0] == "Hark!"
    page.fill("#find-text", "")
    page.select_option("#find-status", "missing")
    missing = [g for g, t in members if t["status"] == "missing"]
    assert found() == len(missing) > 0
    page.locator("#find-list a").first.click()
    where = f"Step {missing[0]['step']}, prompt {missing[0]['prompt_id']}: "
    page.wait_for_function("(text) => document.getElementById('where').innerText.startsWith(text)", arg=where)
    page.select_option("#find-status", "")
    page.fill("#find-step-from", "10")
    page.fill("#find-step-to", "12")
    page.fill("#find-reward-to", "0.5")
    page.select_option("#find-stop", "length")
    assert found() == sum(
        10 <= g["step"] <= 12
        and t["reward"] is not None
        and t["reward"] <= 0.5
        and t["stop_reason"] == "length"
        for g, t in members
    )


def test_one_prompt_is_followed_over_the_steps(visit: Visit, run: RunFolder) -> None:
    page, group = visit.page, next(run.groups.lines())
    steps = [g["step"] for g in run.groups.lines() if g["prompt_id"] == group["prompt_id"]]
    assert len(steps) > 2
    assert page.locator("#follow .column").count() == len(steps)
    assert f"was drawn {len(steps)} times" in page.locator("#follow-said").inner_text()
    assert page.locator("#follow [aria-current] .unseen").inner_text().startswith("step 1: ")
    page.locator("#follow a.column").nth(1).focus()
    page.keyboard.press("Enter")
    where = f"Step {steps[1]}, prompt {group['prompt_id']}: "
    page.wait_for_function("(text) => document.getElementById('where').innerText.startsWith(text)", arg=where)
    assert page.evaluate("location.hash") == f"#group-{steps[1]}-{group['prompt_id']}"
    page.goto("about:blank")
    page.goto(run.report.as_uri() + f"#group-{steps[2]}-{group['prompt_id']}")
    assert f"Step {steps[2]}, prompt {group['prompt_id']}: " in page.locator("#where").inner_text()


def test_the_rewards_of_a_group_are_dots_on_an_axis(visit: Visit, run: RunFolder) -> None:
    rewards = sorted(t["reward"] for t in next(run.groups.lines())["trajectories"])
    axis = visit.page.locator("#strip .axis").bounding_box()
    assert axis is not None
    boxes = [dot.bounding_box() for dot in visit.page.locator("#strip .dot").all()]
    places = sorted((b["x"] + b["width"] / 2 - axis["x"]) / axis["width"] for b in boxes)
    assert places == pytest.approx(rewards, abs=0.02)
    said = visit.page.locator("#strip").get_attribute("aria-label") or ""
    words = said.removeprefix("Rewards of the group: ").split(", ")
    assert [float(word) for word in words] == pytest.approx(rewards, abs=0.006)


def test_a_section_that_is_exchanged_works_at_once(visit: Visit) -> None:
    """As `refine watch` does it."""
    page = visit.page
    page.evaluate("() => document.getElementById('step').focus()")
    page.keyboard.press("End")
    page.evaluate(
        """(source) => {
        const fresh = new DOMParser().parseFromString(source, "text/html");
        for (const old of document.querySelectorAll("main > section")) {
            const part = document.importNode(fresh.getElementById(old.id), true);
            old.replaceWith(part);
            part.dispatchEvent(new CustomEvent("refine:exchanged", { bubbles: true }));
        }
    }""",
        Path(page.url.removeprefix("file://")).read_text(encoding="utf-8"),
    )
    assert "Step 60, " in page.locator("#where").inner_text()  # where it was
    page.click("#step-before")
    assert "Step 59, " in page.locator("#where").inner_text()
    assert page.locator(".answer:visible").count() == 10
    page.click("#answer-after")
    assert page.locator("#answer-page").inner_text() == "page 2 of 7"
    page.locator("#chart-kl .plot").focus()
    page.keyboard.press("Home")
    assert visit.texts("#chart-kl .tip .at") == ["step 1"]
    assert visit.complaints == []


def test_without_the_script_everything_but_the_rollouts_can_be_read(browser: Any, report: Path) -> None:
    visit = Visit(
        browser, report.as_uri(), viewport={"width": 1280, "height": 900}, java_script_enabled=False
    )
    assert visit.page.locator(".answer:visible").count() == 64
    assert visit.page.locator("figure.chart .plot:visible").count() == 22
    assert visit.page.locator(".filters:visible, .pager:visible, .needs-script:visible").count() == 0
    table = visit.page.locator("#chart-reward table.points")
    assert not table.is_visible()
    visit.page.locator("#chart-reward summary").click()
    assert table.is_visible()
    assert "groups.jsonl" in visit.page.locator("#rollouts noscript").inner_text()
    visit.context.close()


def test_who_has_a_keyboard_alone_reaches_everything_and_sees_where(visit: Visit) -> None:
    page = visit.page
    seen = []
    for _ in range(400):
        page.keyboard.press("Tab")
        state = page.evaluate("""() => {
            const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
            return [e === document.body ? "" : e.id || e.className || e.textContent.slice(0, 20),
                style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                box.width > 0 && box.height > 0];
        }""")
        if not state[0]:
            break
        seen.append(state)
    names = [name for name, _, _ in seen]
    assert names[0] == "skip"
    assert len(names) < 400  # it comes to an end
    for needed in ("answer-sense", "answer-facet", "answer-text", "answer-after", "plot", "step", "group"):
        assert needed in names
    for name, outlined, there in seen:
        assert outlined, name
        assert there, name


def test_headings_go_down_one_level_at_a_time(visit: Visit) -> None:
    levels = visit.page.eval_on_selector_all(
        "h1, h2, h3, h4, h5", "all => all.filter((e) => e.checkVisibility()).map((e) => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(b - a for a, b in itertools.pairwise(levels)) == 1


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
    phone = Visit(browser, report.as_uri(), viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for details in phone.page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
    svg = phone.page.locator("figure.chart svg").first.bounding_box()
    assert svg is not None
    assert svg["width"] > 300
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
    visit = Visit(browser, judged.as_uri(), viewport={"width": width, "height": 844})
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
    page.evaluate("document.querySelector('.answer .text').textContent = 'line\\n'.repeat(100)")
    page.wait_for_selector(".answer .text + .hint")
    assert visit.texts(".hint") == ["The text goes on: it scrolls. ↓"]
    page.locator(".answer .text").first.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelector('.answer .text').scrollTop > 0")


def test_tables_are_reached_without_the_script_too(browser: Any, report: Path) -> None:
    visit = Visit(browser, report.as_uri(), viewport={"width": 390, "height": 844}, java_script_enabled=False)
    scrolls = visit.page.locator(".scroll")
    assert scrolls.count() >= 6
    for box in scrolls.all():
        assert box.get_attribute("tabindex") == "0"
        assert box.get_attribute("role") == "region"
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_in_both_schemes(browser: Any, report: Path, scheme: str) -> None:
    visit = Visit(browser, report.as_uri(), color_scheme=scheme)
    visit.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    visit.page.locator("#chart-reward .plot").focus()
    visit.page.keyboard.press("Home")
    found, paper = visit.page.evaluate(CONTRAST)
    assert (paper < 0.1) is (scheme == "dark")
    assert len(found) > 60
    for name in ("SPAN.claim", "P.lead", "DT.", "P.good", "SPAN.sense better", "STRONG.", "P.at"):
        assert name in found, name
    assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
    visit.context.close()


def test_everything_has_a_name_for_who_cannot_see_it(visit: Visit) -> None:
    page = visit.page
    for picture in page.locator("[role=img]").all():
        assert len(picture.get_attribute("aria-label") or "") > 20
    for table in page.locator("table").all():
        assert table.locator("caption").inner_text() or not table.is_visible()
    named = (
        "e => Boolean(e.ariaLabel || (e.labels && e.labels.length) || "
        "(e.tagName === 'BUTTON' && e.textContent.length > 4))"
    )
    for control in page.locator("button, input, select").all():
        assert control.evaluate(named)
    assert page.locator("main").count() == page.locator("h1").count() == page.locator("nav").count() == 1
    targets = page.eval_on_selector_all("nav a", "links => links.map((a) => a.getAttribute('href'))")
    assert len(targets) == 10
    for target in targets:
        assert page.locator(target).count() == 1


def test_no_id_is_used_twice(visit: Visit) -> None:
    ids = visit.page.eval_on_selector_all("[id]", "elements => elements.map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_a_game_is_shown_turn_by_turn(browser: Any, tmp_path: Path, hostile: tuple[str, ...]) -> None:
    games = games_run(tmp_path / "games", hostile[0])
    visit = Visit(browser, games.save_report(render(games)).as_uri(), viewport={"width": 390, "height": 844})
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
    assert page.locator("#answers .exchange .said").first.inner_text() == "CRANE 0"
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.complaints == []
    visit.context.close()
