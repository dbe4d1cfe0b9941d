"""Those who score are asked before a model is loaded: what was asked by then, and how the run ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import MachineError
from refine_rl.pipeline.prepare import prepare
from refine_rl.progress import Quiet, never
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings.file import load_settings

StartServer = Callable[..., Any]
TOPICS = ("lamp", "train", "soup", "coat", "bell", "garden", "letter", "clock", "chair", "ticket")


class Loading(Exception):  # noqa: N818 - a moment, no failure
    """The moment before which everything here happens."""


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise Loading

    monkeypatch.setattr("refine_rl.engines.base.load_policy", load)


def sane(body: dict[str, Any]) -> str:
    """A judge of every kind, and both sides of a quiz."""
    text = body["messages"][1]["content"]
    if "<source>" in text:
        questions = [
            {"question": f"What {n}?", "right": "yes", "wrong": ["no", "so", "ho"]} for n in range(3)
        ]
        return json.dumps({"questions": questions})
    if "<questions>" in text:
        sheet = json.loads(text.split("<questions>\n")[1].split("\n</questions>")[0])
        known = "river" in text.split("</text>")[0]
        letters = [
            {"id": q["id"], "answer": next(k for k, v in q["options"].items() if (v == "yes") == known)}
            for q in sheet
        ]
        return json.dumps({"answers": letters})
    ids = re.findall(r'<trajectory id="([^"]+)">', text)
    scores = [{"trajectory_id": i, "explanation": "", "score": 0.1} for i in ids]
    grade = {"explanation": "", "score": 2, "winner": "tie", "first_wrong": 1}
    return json.dumps({"scores": scores} if ids else grade)


def mad(body: dict[str, Any]) -> str:
    return "I like them all!"


class Try:
    """A run up to the moment at which the model would be loaded."""

    def __init__(self, tmp_path: Path, server: Any, *, writer: bool = False, more: str, judge: str) -> None:
        self.server = server
        prompts = [{"prompt": f"Tell of the {t}.", "source": f"The river and the {t}."} for t in TOPICS]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
        (tmp_path / "task.toml").write_text(f"""
            task = "Answer in short words."
            [model]
            name = "tiny"
            {"[writer]" if writer else ""}
            {'model = "mine/writer"' if writer else ""}
            [prompts]
            {"" if writer else 'source = "file:p.jsonl"'}
            train = 4
            validation = 2
            held_out = 4
            [endpoints.mine]
            base_url = "{server.base_url}"
            retries = 0
            [reward]
            {judge}
            [grpo]
            prompts_per_step = 2
            {more}
        """)
        self.folder = RunFolder.create(tmp_path / "run", load_settings(tmp_path / "task.toml"))
        self.warnings: list[str] = []

    def go(self) -> BaseException:
        """How it ended."""
        observer = Quiet()
        observer.warning = self.warnings.append  # type: ignore[method-assign]
        with pytest.raises((Loading, MachineError)) as caught:
            prepare(self.folder, (), Journal(self.folder, observer), never)
        return caught.value

    @property
    def models(self) -> Sequence[str]:
        return [r["model"] for r in self.server.requests]


@pytest.fixture
def attempt(tmp_path: Path, llm_server: StartServer) -> Callable[..., Try]:
    """attempt(brain, "tables of task.toml", judge="lines of [reward]", moods=...)."""

    def make(brain: Any, more: str = "", judge: str = 'judges = ["mine/judge"]', **how: Any) -> Try:
        writer = how.pop("writer", False)
        return Try(tmp_path, llm_server(brain=brain, **how), writer=writer, more=more, judge=judge)

    return make


@pytest.mark.parametrize(("kind", "requests"), [("ruler", 1), ("absolute", 2), ("pairwise", 2)])
def test_a_judge_is_asked_about_two_fixed_answers_to_the_first_prompt(
    attempt: Callable[..., Try], kind: str, requests: int
) -> None:
    made = attempt(sane, f'[judge]\nkind = "{kind}"\nrepeats = 3')
    assert isinstance(made.go(), Loading)
    assert list(made.models) == ["judge"] * requests
    said = " ".join(r["messages"][1]["content"] for r in made.server.requests)
    assert "A lobster sheds" in said
    assert "Ignore the rubric" in said
    assert "Tell of the " in said
    assert [c["purpose"] for c in made.folder.calls()] == ["anchor"] * requests


def test_where_the_prompts_are_still_to_be_written_the_task_stands_in(attempt: Callable[..., Try]) -> None:
    made = attempt(sane, writer=True)
    assert isinstance(made.go(), Loading)
    assert list(made.models) == ["judge"]
    context = made.server.requests[0]["messages"][1]["content"].partition("</context>")[0]
    assert "Answer in short words." in context


@pytest.mark.parametrize("kind", ["ruler", "absolute", "pairwise"])
def test_a_judge_of_whom_nothing_can_be_used_stops_it_all(attempt: Callable[..., Try], kind: str) -> None:
    made = attempt(mad, f'[judge]\nkind = "{kind}"', writer=True)
    error = made.go()
    assert isinstance(error, MachineError)
    assert error.exit_code == 4
    assert "reward.judges (mine/judge): mine/judge gave no usable reply: There is no JSON" in str(error)
    assert str(made.folder.exchanges.path) in str(error)
    assert set(made.models) == {"judge"}
    assert made.folder.prompts() == []
    assert {c["outcome"] for c in made.folder.calls()} - {"cached"} == {"unusable"}
    assert all(c["extra"]["error"] for c in made.folder.calls())


@pytest.mark.parametrize("mood", ["401", "404", "500", "drop-before"])
def test_a_judge_that_is_not_there_stops_it_all(attempt: Callable[..., Try], mood: str) -> None:
    made = attempt(sane, moods=mood)
    assert isinstance(made.go(), MachineError)
    assert len(made.models) == 1


def test_every_judge_is_asked_in_each_of_its_roles(attempt: Callable[..., Try]) -> None:
    more = '[judge]\nrepeats = 2\nlarger = "mine/big"\n[evaluate]\njudge = "mine/other"'
    made = attempt(sane, more, judge='judges = ["mine/a", "mine/b", "mine/a"]')
    assert isinstance(made.go(), Loading)
    assert sorted(made.models) == ["a", "b", "big", "other"]


@pytest.mark.parametrize(
    ("bad", "role"),
    [("other", "evaluate.judge (mine/other)"), ("big", "judge.larger (mine/big)")],
)
def test_a_judge_that_would_be_needed_later_is_named_now(
    attempt: Callable[..., Try], bad: str, role: str
) -> None:
    more = '[judge]\nrepeats = 2\nlarger = "mine/big"\n[evaluate]\njudge = "mine/other"'
    made = attempt(lambda body: mad(body) if body["model"] == bad else sane(body), more)
    error = made.go()
    assert isinstance(error, MachineError)
    assert role in str(error)
    assert "reward.judges" not in str(error)


def test_one_of_several_judges_that_cannot_be_used_is_a_warning(attempt: Callable[..., Try]) -> None:
    made = attempt(
        lambda body: mad(body) if body["model"] == "b" else sane(body), judge='judges = ["mine/a", "mine/b"]'
    )
    assert isinstance(made.go(), Loading)
    (warning,) = made.warnings
    assert warning.startswith("reward.judges: no reply of mine/b could be used: ")
    assert [e["text"] for e in made.folder.events() if e["kind"] == "warning"] == [warning]


def test_judges_of_steps_are_asked_too(attempt: Callable[..., Try]) -> None:
    steps = '[reward.steps]\njudges = ["mine/steps"]'
    rules = 'rules = [{rule = "words", max = 3, strict = true}]'
    more = f'flat = "steps"\nsolved = 1.0\n{steps}'
    made = attempt(sane, more, judge=rules)
    assert isinstance(made.go(), Loading)
    assert list(made.models) == ["steps", "steps"]


def test_judges_of_steps_of_whom_nothing_can_be_used(attempt: Callable[..., Try]) -> None:
    steps = '[reward.steps]\njudges = ["mine/steps"]'
    rules = 'rules = [{rule = "words", max = 3, strict = true}]'
    error = attempt(mad, f'flat = "steps"\nsolved = 1.0\n{steps}', judge=rules).go()
    assert isinstance(error, MachineError)
    assert "reward.steps.judges (mine/steps)" in str(error)


QUIZ = '[reward.quiz]\nwriter = "mine/writer"\nreader = "mine/reader"'


def test_a_quiz_is_tried_on_one_source_whose_questions_are_kept(attempt: Callable[..., Try]) -> None:
    made = attempt(sane, QUIZ, judge="")
    assert isinstance(made.go(), Loading)
    assert sorted(made.models) == ["reader", "reader", "reader", "writer"]
    assert isinstance(made.go(), Loading)
    assert sorted(made.models) == ["reader", "reader", "reader", "writer"]  # all of it is there already


def test_a_quiz_that_nobody_can_set_stops_it_all(attempt: Callable[..., Try]) -> None:
    made = attempt(lambda body: mad(body) if body["model"] == "writer" else sane(body), QUIZ, judge="")
    error = made.go()
    assert isinstance(error, MachineError)
    assert "reward.quiz (writer and reader): mine/writer gave no usable reply" in str(error)
    sources = {r["messages"][1]["content"] for r in made.server.requests}
    assert len({re.sub(r"\n\nAnswer with JSON.*", "", s, flags=re.S) for s in sources}) == 2  # validation's


def test_a_reward_without_llms_asks_nobody(attempt: Callable[..., Try]) -> None:
    made = attempt(mad, judge='rules = [{rule = "words", max = 9}]')
    assert isinstance(made.go(), Loading)
    assert list(made.models) == []


def test_sanity_cases_are_judged_before_the_model_is_loaded(attempt: Callable[..., Try]) -> None:
    case = 'sanity = [{prompt = "Say hi.", good = "hi", bad = "go"}]'
    made = attempt(sane, judge=f'judges = ["mine/judge"]\n{case}')
    with pytest.raises(Exception, match="scores at least as high"):
        prepare(made.folder, (), Journal(made.folder, Quiet()), never)


def test_nobody_is_asked_for_a_model_that_is_not_there(
    refine: Callable[..., Any], attempt: Callable[..., Try], tmp_path: Path
) -> None:
    made = attempt(sane)
    (tmp_path / "empty").mkdir()
    done = refine("train", tmp_path / "task.toml", "--run", "new", "--set", f'model.name="{tmp_path}/empty"')
    assert done.code == 2
    assert "Cannot load the model" in done.err
    assert list(made.models) == []
    assert not (tmp_path / "new").exists()


def test_it_is_not_done_again_once_the_base_model_has_answered(attempt: Callable[..., Try]) -> None:
    made = attempt(sane, "[endpoints.other]\nbase_url = 'http://127.0.0.1:9/v1'")
    made.folder.save_prompts([])
    made.folder.save_outcomes("base", [])
    assert isinstance(made.go(), Loading)
    assert list(made.models) == []
