"""The pages of the site: which file of the repository becomes which, and what a link between them turns into.

Markdown below docs/ stays where it is; what lies elsewhere (measurements, examples, recipes, notebooks) gets
a place beside it. A file of source that a page links to becomes a page as well, so that every link of the
site ends in the site.
"""

from __future__ import annotations

import ast
import posixpath
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cells import notebook_markdown

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "docs/*.md": "{stem}.md",
    "benchmarks/RESULTS.md": "measured.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/*/README.md": "examples/{folder}.md",
    "examples/*.py": "examples/{stem}.md",
    "notebooks/*.ipynb": "notebooks/{stem}.md",
    "src/refine_rl/recipes/*/README.md": "recipes/{folder}.md",
}
"""Pattern in the repository -> page of the site; {stem} and {folder} are names of the file and its folder."""
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".jsonl": "json",
    ".md": "markdown",
    ".sh": "bash",
    ".yaml": "yaml",
}
SHOWN = 40  # lines of a file beside an example that is data
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
CODE = re.compile(r"(?ms)^ *(```+).*?^ *\1 *$|`[^`\n]+`")


class DeadLinkError(Exception):
    """A page links to what is not in the repository."""


@dataclass
class Site:
    """What is to be written: page -> its source. Sources that are linked to are added on the way."""

    pages: dict[str, Path] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for pattern, name in PLACES.items():
            for file in sorted(ROOT.glob(pattern)):
                self.pages[name.format(stem=file.stem, folder=file.parent.name)] = file

    def write(self, folder: Path) -> None:
        """Every page, with what it needs, into `folder`, which is emptied before. Raises DeadLinkError with
        all links that lead nowhere."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / "docs" / "images", folder / "images")
        shutil.copytree(ROOT / "docs" / "site" / "assets", folder / "assets")
        waiting = list(self.pages)
        while waiting:
            page = waiting.pop()
            before = set(self.pages)
            file = folder / page
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.linked(self.text(page, folder), page), encoding="utf-8")
            waiting += self.pages.keys() - before
        if self.dead:
            raise DeadLinkError("\n".join(self.dead))

    def text(self, page: str, folder: Path) -> str:
        """The Markdown of a page, its links as they stand in its source."""
        source = self.pages[page]
        if source.suffix == ".ipynb":
            return notebook_markdown(source, folder / page)
        if source.is_dir():
            return "".join(_folder(source))
        if source.suffix != ".md":
            return f"# `{source.relative_to(ROOT).as_posix()}`\n\n{_fenced(source)}"
        text = source.read_text(encoding="utf-8")
        if page.startswith(("examples/", "recipes/")):
            text += "".join(_beside(source))
        return text

    def linked(self, text: str, page: str) -> str:
        """`text` with its links turned into those of the site; code is left alone."""
        at, parts = 0, []
        for code in CODE.finditer(text):
            parts += [LINK.sub(self._turn(page), text[at : code.start()]), code[0]]
            at = code.end()
        return "".join([*parts, LINK.sub(self._turn(page), text[at:])])

    def _turn(self, page: str) -> Callable[[re.Match[str]], str]:
        source = self.pages[page]

        def turned(link: re.Match[str]) -> str:
            path, hash_, anchor = link[2].partition("#")
            if not path or "://" in path or path.startswith(("data:", "mailto:")):
                return link[0]
            if _generated(page, path):
                return link[0]
            target = (source.parent / path).resolve()
            if not target.exists() or not target.is_relative_to(ROOT):
                self.dead.append(f"{source.relative_to(ROOT)}: {link[2]} is not there")
                return link[0]
            there = posixpath.relpath(self._page_of(target), posixpath.dirname(page) or ".")
            return f"{link[1]}{there}{hash_}{anchor}{link[3]}"

        return turned

    def _page_of(self, target: Path) -> str:
        """Where the site has a file of the repository; one that it has not yet is added."""
        known = {file: page for page, file in self.pages.items()}
        if (readme := target / "README.md") in known:
            return known[readme]
        if target in known:
            return known[target]
        inside = target.relative_to(ROOT)
        if inside.parts[:2] == ("docs", "images"):
            return inside.relative_to("docs").as_posix()
        if inside.parts[0] in ("examples", "notebooks") and target.is_dir():
            return "examples.md"
        page = f"source/{inside.as_posix()}.md"
        self.pages[page] = target
        return page


def _generated(page: str, path: str) -> bool:
    """Whether a link goes to a picture that was taken out of the page's notebook."""
    return page.startswith("notebooks/") and path.startswith(f"{Path(page).stem}-")


def _beside(readme: Path) -> Iterator[str]:
    """The files of an example or recipe, each as code; long ones are cut."""
    files = sorted(f for f in readme.parent.rglob("*") if f.suffix in LANGUAGES)
    wanted = [f for f in files if f.name not in ("README.md", "__init__.py") and "__pycache__" not in f.parts]
    if wanted:
        yield "\n\n## Files\n"
    for file in sorted(wanted, key=lambda f: (f.name != "task.toml", f)):
        yield f'\n??? example "{file.relative_to(readme.parent).as_posix()}"\n\n'
        yield "".join(f"    {line}\n" if line else "\n" for line in _fenced(file).splitlines())


def _fenced(file: Path) -> str:
    """A file as a block of code; of data, the first lines."""
    lines = file.read_text(encoding="utf-8").splitlines()
    more = len(lines) - SHOWN if file.suffix == ".jsonl" else 0
    if more > 0:
        lines = [*lines[:SHOWN], f"... {more} more lines"]
    fence = "````" if any(line.lstrip().startswith("```") for line in lines) else "```"
    return "\n".join([f"{fence}{LANGUAGES.get(file.suffix, '')}", *lines, f"{fence}\n"])


def _folder(folder: Path) -> Iterator[str]:
    """A folder of source: what each file says of itself, with a link to it."""
    yield f"# `{folder.relative_to(ROOT).as_posix()}/`\n\n"
    for file in sorted(folder.rglob("*.py")):
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        name = file.relative_to(folder).as_posix()
        yield f"- [`{name}`]({folder.name}/{name}): {said.partition(chr(10) * 2)[0]}\n"
