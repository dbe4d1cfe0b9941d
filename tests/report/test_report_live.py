"""The report while it is watched, without a browser: what is served, and how often it is made."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from growing import Growing
from refine_rl.pipeline import watch as watching
from refine_rl.pipeline.watch import Watch
from refine_rl.report.live import newest, waiting_page, watched_page
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.run.follow import Watched
from refine_rl.settings import Settings

TROUBLE = 'id="live-trouble"'


def until(ready: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := ready()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as reply:
        return str(reply.read().decode())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., RunFolder]) -> RunFolder:
    folder = tmp_path_factory.mktemp("source") / "messages"
    return make_run(folder, steps=6, prompts_per_step=2, group_size=4, held_out=8)


@pytest.fixture
def growing(source: RunFolder, tmp_path: Path) -> Iterator[Growing]:
    run = Growing(source, tmp_path / "messages")
    run.begin()
    run.to(2)
    yield run
    run.let_go()


def test_a_run_read_on_has_the_page_of_one_read_whole(run: RunFolder, growing: Growing) -> None:
    def page(of: RunFolder) -> str:  # it says at what second it was made
        return re.sub(r"at \d\d:\d\d:\d\d \(UTC.{5}\) on [-0-9]{10}", "at", render(of))

    assert page(Watched(run.path)) == page(run)
    watched = Watched(growing.folder)
    for step in (2, 4, 6):
        growing.to(step)
        assert page(watched) == page(RunFolder(growing.folder))


def scripts(page: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


@pytest.mark.parametrize("of", ["grpo", "sft", "waiting"])
def test_the_page_lets_only_its_own_scripts_run_and_ask_only_here(
    run: RunFolder, tmp_path: Path, of: str
) -> None:
    strip = '<aside id="live"></aside>'
    if of == "waiting":
        page = waiting_page("<b>", strip, "<i>")
        assert "<b>" not in page
        assert "<i>" not in page
    else:
        page = watched_page(render(run if of == "grpo" else sft_run(tmp_path)), strip)
    policy = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert len(policy) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policy[0].split(";"))
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts(page)
    }
    assert set(rules.pop("script-src").split()) == hashes
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.index(strip) < page.index('<header class="top">') < page.index("refine:exchanged")
    assert page.count(strip) == page.count("</main>") == 1


def test_a_page_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match='has no <header class="top">'):
        watched_page("<head></head><main></main>", "")


def sft_run(tmp_path: Path) -> RunFolder:
    settings = {
        "task": "Imitate.", "model": {"name": "tiny"}, "sft": {"data": "file:pairs.jsonl"},
        "reward": {"rules": [{"rule": "words", "max": 5}]},
    }  # fmt: skip
    return RunFolder.create(tmp_path / "sft-run", Settings.model_validate(settings), kind="sft")


def test_supervised_fine_tuning_is_watched_as_well(tmp_path: Path) -> None:
    watch = Watch(sft_run(tmp_path).path)
    with watch.at(0) as address:
        until(lambda: "Re:Fine report of supervised fine-tuning" in get(address))
        assert "Not heard of" not in get(address + "strip")


class Renders:
    """In place of `render`: counts, and does as it is told."""

    def __init__(self) -> None:
        self.made, self.tried = 0, 0
        self.fails: list[Exception] = []
        self.always: Exception | None = None

    def __call__(self, run: RunFolder) -> str:
        self.tried += 1
        if self.always is not None:
            raise self.always
        if self.fails:
            raise self.fails.pop(0)
        self.made += 1
        return f'<head></head><header class="top"></header><main>report {self.made}</main>'


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> Renders:
    made = Renders()
    monkeypatch.setattr(watching, "render", made)
    monkeypatch.setattr(watching, "_LOOK", 0.01)
    return made


def looks(watch: Watch, count: int = 5) -> None:
    """So many looks at the files pass."""
    seen: list[int] = []
    wanted = watch._wanted

    def counted() -> bool:
        seen.append(1)
        return wanted()

    watch._wanted = counted  # type: ignore[method-assign]
    until(lambda: len(seen) >= count)
    watch._wanted = wanted  # type: ignore[method-assign]


def test_no_report_is_made_for_nobody_and_none_twice_of_the_same_files(
    growing: Growing, renders: Renders
) -> None:
    watch = Watch(growing.folder)
    with watch.at(0) as address:
        looks(watch)
        assert renders.made == 0
        get(address + "strip")
        until(lambda: renders.made == 1)
        for _ in range(5):
            get(address)
        RunFolder(growing.folder).save_report("the run's own page")
        looks(watch)
        assert renders.made == 1
        growing.to(3)
        until(lambda: "report 2" in get(address))
        watch._asked -= 3600
        growing.to(4)
        looks(watch)
        assert renders.made == 2
        get(address + "strip")
        until(lambda: "report 3" in get(address))


def test_a_share_of_a_core_is_enough_but_for_the_end(
    growing: Growing, renders: Renders, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [0.0]
    monkeypatch.setattr(watching.Allowance, "left", lambda self, at: left[0])
    watch = Watch(growing.folder)
    with watch.at(0) as address:
        until(lambda: "report 1" in get(address))
        left[0] = -1.0
        growing.to(5)
        get(address + "strip")
        looks(watch)
        assert renders.made == 1
        growing.end()
        until(lambda: "report 2" in get(address))
        RunFolder(growing.folder).event("note", "a", "b")
        get(address + "strip")
        looks(watch)
        assert renders.made == 2


def test_what_is_replaced_while_it_is_read_is_read_again(growing: Growing, renders: Renders) -> None:
    renders.fails = [FileNotFoundError("pruned")]
    watch = Watch(growing.folder)
    with watch.at(0) as address:
        until(lambda: "report 1" in get(address))
        assert TROUBLE not in get(address)
        renders.always = FileNotFoundError("it stays away")
        growing.to(3)
        until(lambda: "FileNotFoundError: it stays away" in get(address))
        assert "report 1" in get(address)
        renders.always = ValueError("a defect <b>")
        growing.to(4)
        until(lambda: "The report cannot be made anew: ValueError: a defect &lt;b&gt;" in get(address))
        tried = renders.tried
        looks(watch)
        assert renders.tried == tried  # the files are as they were
        renders.always = None
        growing.to(5)
        until(lambda: "report 2" in get(address))
        assert TROUBLE not in get(address)


def test_a_folder_that_goes_away_and_comes_back(growing: Growing, renders: Renders) -> None:
    watch = Watch(growing.folder)
    with watch.at(0) as address:
        until(lambda: "report 1" in get(address))
        growing.let_go()
        shutil.rmtree(growing.folder.rename(growing.folder.with_name("gone")))  # nobody sees half of it
        assert "The run’s folder is gone" in get(address)
        assert "report 1" in get(address)
        growing.step = -1
        growing.begin()
        growing.to(1)
        until(lambda: "report 2" in get(address))
        assert ">Running</strong>" in get(address)


def test_the_newest_groups_in_short() -> None:
    def line(*answers: tuple[float | None, str], prompt: str = "Say it.") -> dict[str, Any]:
        return {
            "step": 7,
            "prompt_id": "p1",
            "trajectories": [
                {
                    "messages": [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": text},
                    ],
                    "reward": reward,
                    "status": "scored" if reward is not None else "missing",
                    "explanation": "one\ntwo",
                }
                for reward, text in answers
            ],
        }

    (group,) = newest([line((0.25, "a"), (None, " b \n"), (0.75, "c"))])
    assert (group.step, group.prompt, group.mean) == (7, "Say it.", 0.5)
    assert [m.place for m in group.members] == [0.25, None, 0.75]
    assert [m.text for m in group.members] == ["a", "b", "c"]
    assert group.members[1].why == "one; two"
    assert group.spoken == "0.25, –, 0.75"
    wide = newest(
        [line((-1.0, "a"), (3.0, "b")), line((1.0, "c"), (1.0, "d")), line((0.0, "e")), line((9.0, "f"))]
    )
    assert [[m.place for m in g.members] for g in wide] == [[0.0, 1.0], [0.5, 0.5], [0.25]]
    assert newest([line((None, "a"), (None, "b"))])[0].mean is None
