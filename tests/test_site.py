"""The documentation's site: it builds without a warning and without the network, and every link in it leads
somewhere."""

from __future__ import annotations

import html.parser
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

pytest.importorskip("material", reason="needs mkdocs-material (pip install 'refine-rl[site]')")
ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "docs" / "site"
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
"""What a browser fetches by itself, with the attribute that says from where."""


class Page(html.parser.HTMLParser):
    """What a page of the site offers (anchors), loads and links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        canonical = tag == "link" and given.get("rel") in ("canonical", "prev", "next")
        if tag in LOADED and LOADED[tag] in given and not canonical:
            self.loads.append(given[LOADED[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site's folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(TOOLS / "build.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(built: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in built.rglob("*.html")}


def inside(pages: dict[Path, Page]) -> Iterator[tuple[Path, str, Path, str]]:
    """(page, link as written, the file it leads to, its anchor) of every link within the site."""
    for path, page in pages.items():
        for link in [*page.loads, *page.links]:
            target, anchor = urldefrag(link)
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            yield path, link, (path.parent / unquote(target)).resolve() if target else path, unquote(anchor)


def test_every_link_leads_to_a_page_and_every_anchor_into_it(built: Path, pages: dict[Path, Page]) -> None:
    links = [found for found in inside(pages) if found[0].name != "404.html"]  # its links are absolute
    assert len(links) > 2000
    dead = {(path.name, link) for path, link, target, _ in links if not target.is_file()}
    assert dead == set()
    lost = {
        (path.name, link)
        for path, link, target, anchor in links
        if anchor and target.suffix == ".html" and anchor not in pages[target].anchors
    }
    assert lost == set()


def test_nothing_is_loaded_from_outside(built: Path, pages: dict[Path, Page]) -> None:
    assert {
        load for page in pages.values() for load in page.loads if urlsplit(load).scheme or "//" in load[:2]
    } == (set())
    for style in built.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), (
            style
        )


def test_links_to_the_outside_are_secure(pages: dict[Path, Page]) -> None:
    """They are not fetched here."""
    outside = {link for page in pages.values() for link in page.links if urlsplit(link).scheme}
    assert len(outside) > 15
    on_this_machine = re.compile(r"https?://(127\.0\.0\.1|localhost)[:/]")
    assert [
        link for link in outside if not link.startswith("https://") and not on_this_machine.match(link)
    ] == []


def test_no_markdown_is_left_in_the_text(built: Path) -> None:
    """A table or list behind a line of text without a gap is none, and stands there with its marks."""
    marks = re.compile(r"(?m)^(?:- |\d+\. |\||#+ |!!! |\?\?\? )|```|\*\*|\]\(|\$\$")
    for path in built.rglob("*.html"):
        article = path.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
        for paragraph in re.findall(r"(?s)<p>(.*?)</p>", article):
            text = re.sub(r"(?s)<code.*?</code>", "", paragraph)
            assert not marks.search(text), (path.name, text)


def test_every_page_of_the_documentation_is_in_the_site(built: Path) -> None:
    sources = [p.stem for p in (ROOT / "docs").glob("*.md")]
    recipes = [p.parent.name for p in ROOT.glob("src/refine_rl/recipes/*/README.md")]
    notebooks = [p.stem for p in ROOT.glob("notebooks/*.ipynb")]
    wanted = [*sources, *(f"recipes/{name}" for name in recipes), *(f"notebooks/{n}" for n in notebooks)]
    assert [name for name in wanted if not (built / f"{name}.html").is_file()] == []


# -- how the pages are made -------------------------------------------------------------------------


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location("pages", TOOLS / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pages", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "turned"),
    [
        ("speed.md", "../benchmarks/RESULTS.md#on-a-gpu", "measured.md#on-a-gpu"),
        ("quickstart.md", "judges.md", "judges.md"),
        ("examples/guess_number.md", "../../docs/environments.md", "../environments.md"),
        (
            "notebooks/tiny_grpo.md",
            "../src/refine_rl/randomness.py",
            "../source/src/refine_rl/randomness.py.md",
        ),
        ("notebooks/tiny_grpo.md", "tiny_grpo-1.png", "tiny_grpo-1.png"),
        ("judges.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("judges.md", "#the-rubric", "#the-rubric"),
    ],
)
def test_links_are_turned(tools: ModuleType, page: str, link: str, turned: str) -> None:
    site = tools.Site()
    assert site.linked(f"See [it]({link}).", page) == f"See [it]({turned})."
    assert site.dead == []


def test_code_is_left_alone_and_dead_links_are_kept_in_mind(tools: ModuleType) -> None:
    site = tools.Site()
    text = "`[a](nowhere.md)`\n\n```\n[b](nowhere.md)\n```\n[c](../README.rst)\n"
    assert site.linked(text, "judges.md") == text
    assert site.dead == ["docs/judges.md: ../README.rst is not there"]


def test_a_notebook_is_shown_with_its_outputs(tools: ModuleType, built: Path) -> None:
    text = (built / "notebooks" / "tiny_grpo.html").read_text(encoding="utf-8")
    assert "400 prompts to train on, 64 held out" in text
    assert text.count("tiny_grpo-") >= 8
    assert (built / "notebooks" / "tiny_grpo-1.png").read_bytes().startswith(b"\x89PNG")


def test_formulas_are_drawn_and_code_is_not(tools: ModuleType) -> None:
    drawn = sys.modules["cells"].with_formulas("`$HOME` costs $x_1$.\n```\n$y$\n```\n$$\\frac{a}{b}$$")
    assert drawn.startswith("`$HOME` costs <span><math")
    assert "```\n$y$\n```" in drawn
    assert "<msub><mi>x</mi><mn>1</mn></msub>" in drawn
    assert "<mfrac>" in drawn.partition('<div class="formula">')[2]


# -- in a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        yield chromium
        chromium.close()


def test_the_search_works_from_the_files(browser: Any, built: Path) -> None:
    """Opened as a file, without a server: nothing is asked of the outside, nothing is complained about."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(60_000)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((built / "index.html").as_uri())
    page.click("input.md-search__input")
    page.wait_for_function("!document.querySelector('.md-search-result__meta').innerText.includes('Initial')")
    page.keyboard.type("exploding_gradient")
    page.wait_for_selector("a.md-search-result__link[href*='troubleshooting.html']")
    page.click("a.md-search-result__link[href*='troubleshooting.html']")
    page.wait_for_url("**/troubleshooting.html*")
    assert {urlsplit(url).scheme for url in asked} <= {"file", "blob", "data"}
    assert complaints == []
    page.close()


def test_a_narrow_page_does_not_scroll_sideways(browser: Any, built: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(60_000)
    for name in ("index", "quickstart", "troubleshooting", "beside-others", "settings"):
        page.goto((built / f"{name}.html").as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, (name, wide)
    for name in ("troubleshooting", "runs", "report"):  # what to do stands in the last column
        page.goto((built / f"{name}.html").as_uri())
        cells = page.locator("article td:last-child")
        ends = cells.evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().right)")
        assert len(ends) > 10
        assert max(ends) <= 390, (name, max(ends))
    page.close()
