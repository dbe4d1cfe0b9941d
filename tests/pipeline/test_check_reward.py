"""A reward on example answers: what is tried, what is found, with exact numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from make import prompt, score
from refine_rl.errors import MachineError, UserError
from refine_rl.pipeline.check import Checked, lay_out
from refine_rl.pipeline.check_answers import Case, Try, given_answers, made_up, read_answers
from refine_rl.pipeline.check_findings import failed_components, findings
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.types import Score

P = prompt("p1", "Say hi to Ann.", answer="Hi Ann!")


def case(*tries: tuple[str, Any], of: Any = P, is_sanity: bool = False) -> Case:
    made = [
        Try(kind=f"{worth or 'answer'} {n}", said=f"text {n}", worth=worth)
        for n, (worth, _) in enumerate(tries)
    ]
    return Case(prompt=of, tries=tuple(made), is_sanity=is_sanity)


def found(*cases: Sequence[tuple[str, Any]], top: float | None = 1.0, **weights: float) -> dict[str, str]:
    """Findings by name; each case is (worth, score or reward) pairs."""
    names = tuple(weights) or ("a",)

    def as_score(value: Any) -> Score:
        return value if isinstance(value, Score) else score(value, **({} if value is None else {"a": value}))

    pairs = [(case(*tries), [as_score(value) for _, value in tries]) for tries in cases]
    told = findings(pairs, components=names, weights=weights or {"a": 1.0}, top=top)
    return {one.name: one.text for one in told}


def test_bad_answers_near_the_top() -> None:
    healthy = [("good", 0.9), ("bad", 0.5), ("bad", 0.1)]
    assert found(healthy) == {}
    assert (
        "gets 0.900 as much as the best good answer (0.900) with 1 of 1 prompt"
        in found([("good", 0.9), ("bad", 0.3 + 0.6), ("bad", 0.1)])["bad_near_top"]
    )
    # without a good one, four fifths of the top
    assert "gets 0.800 of at most 1.000" in found([("", 0.2), ("bad", 0.8), ("bad", 0.1)])["bad_near_top"]
    assert "bad_near_top" not in found([("", 0.2), ("bad", 0.79), ("bad", 0.1)])
    assert "bad_near_top" not in found([("", 0.2), ("bad", 0.9), ("bad", 0.1)], top=None)  # relative scores
    assert "bad_near_top" not in found([("", 0.2), ("bad", 7.0), ("bad", 0.1)])  # "top" is not the top


def test_the_same_kind_over_several_prompts_is_one_finding() -> None:
    text = found([("good", 0.5), ("bad", 0.6)], [("good", 0.5), ("bad", 0.8)], [("good", 0.5), ("bad", 0.0)])
    assert text["bad_near_top"].startswith(
        "'bad 1' gets 0.700 as much as the best good answer (0.500) with 2 of 3"
    )


def test_constant_components_and_flat_groups() -> None:
    same = found([("good", 0.5), ("", 0.5), ("bad", 0.5)])
    assert same["constant"].startswith("`a` gives 0.500 to each of these 3 answers: here")
    assert same["no_spread"].startswith("1 of 1 prompt have answers")
    nothing = found([("bad", 0.0), ("bad", 0.0), ("bad", 0.0)])  # may be as it should be, and may not
    assert set(nothing) == {"constant"}
    assert nothing["constant"].startswith("`a` gives 0.000 to each of these 3 answers: all of them are bad")
    assert set(found([("bad", 0.5), ("bad", 0.5), ("bad", 0.5)])) == {"constant"}
    assert "constant" not in found([("", 0.5), ("", 0.5)])  # too few to say
    one = [("", score(0.1, a=0.1, b=1.0)), ("", score(0.2, a=0.2, b=1.0)), ("", score(0.3, a=0.3, b=1.0))]
    assert "(weight 0: it is only watched)" in found(one, a=1.0, b=0.0)["constant"]


def test_missing_scores() -> None:
    assert (
        found([("good", 0.5), ("bad", None)])["missing"]
        == "1 of 2 scores are missing: the judge did not answer"
    )
    failed = Score.missing("b: missing: Traceback\nValueError: no\na: 0.5", {"a": 0.5})
    assert failed_components(("a", "b"), [score(0.5), failed]) == {"b": "Traceback\nValueError: no\na: 0.5"}
    assert failed_components(("a",), [Score.missing("the world failed: x")]) == {
        "reward": "the world failed: x"
    }


def task(folder: Path, code: str = "", **tables: Any) -> Settings:
    rows = [{"prompt": f"Tell of the {t}.", "answer": f"A {t}.", "facets": {"t": t}} for t in "abcdefghij"]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(code)
    usual: dict[str, Any] = {
        "task": "Be short.",
        "prompts": {"source": "file:p.jsonl", "train": 6, "validation": 0, "held_out": 4},
        "reward": {"rules": [{"rule": "chars", "max": 12}]},
    }
    return settings_from_dict({**usual, **tables}, folder)


def checked(settings: Settings, **how: Any) -> Checked:
    return lay_out(settings, **how).scored()


def test_made_up_answers_are_of_training_prompts_with_their_references(tmp_path: Path) -> None:
    settings = task(tmp_path)
    trial = lay_out(settings, count=2)
    assert [c.prompt.split for c in trial.cases] == ["train", "train"]
    first, second = trial.cases
    kinds = [
        "reference",
        "empty",
        "off the topic",
        "copied prompt",
        "phrase repeated",
        "refusal",
        "another's reference",
    ]
    assert [t.kind for t in first.tries] == kinds
    assert first.tries[0].text == first.prompt.data["answer"]
    assert first.tries[-1].text == second.tries[0].text
    assert {t.worth for t in first.tries[1:]} == {"bad"}
    judged = settings.model_copy(update={"reward": settings.reward.model_copy(update={"judges": ["a/b"]})})
    (alone,) = made_up(judged, [p.prompt for p in trial.cases], 1)
    assert {"order to the judge", "made-up reply", "closed tag"} < {t.kind for t in alone.tries}


def test_scores_advantages_and_the_spread(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "p",
            "good": "ten chars!",
            "bad": "far too long for it, that is",
            "answers": ["short", "also much too long for that"],
        }
    ]
    found = checked(task(tmp_path, grpo={"advantage": "mean"}), answers=rows)
    (group,) = found.groups
    assert [(a.answer.kind, a.score.value, a.advantage) for a in group.answers] == [
        ("answer 1", 1.0, 0.5),
        ("answer 2", 0.0, -0.5),
        ("good 1", 1.0, 0.5),
        ("bad 1", 0.0, -0.5),
    ]
    assert (found.top, found.spread, found.relative, found.calls) == (1.0, 0.5, False, 0)
    assert (found.components, found.findings, found.failed, found.problem()) == (("chars",), (), {}, None)


def test_rows_name_prompts_by_id_by_text_or_bring_their_own(tmp_path: Path) -> None:
    prompts = [P, prompt("p2", "Say bye.", system="Be kind.")]
    by_id, by_text, own, chat = given_answers(
        [
            {"prompt": "p1", "answers": ["x"]},
            {"prompt": " say  BYE. ", "answers": ["x"]},
            {"prompt": "New one.", "answers": ["x", ["a", "b"]], "answer": "y"},
            {"id": "m", "messages": [{"role": "user", "content": "Hm?"}], "completions": ["x"]},
        ],
        prompts,
        system="Be brief.",
    )
    assert (by_id.prompt, by_text.prompt) == (prompts[0], prompts[1])
    assert (own.prompt.id, own.prompt.data) == ("answers[2]", {"answer": "y"})
    assert [m["role"] for m in own.prompt.messages] == ["system", "user"]
    assert own.tries[1].said == ("a", "b")
    assert chat.prompt.id == "m"
    with pytest.raises(UserError, match=r"answers\[0\]: has no `answers`(.|\n)*answers\[1\]: has in `bad`"):
        given_answers([{"prompt": "x"}, {"prompt": "x", "bad": [1]}], prompts)


def test_every_broken_line_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": 5, "answers": ["x"]}\n\n[1\n[]\n{"prompt": "x", "answers": []}\n')
    with pytest.raises(UserError) as error:
        read_answers(file, [])
    assert [line.partition(": ")[0] for line in str(error.value).splitlines()] == [
        f"{file}:{n}" for n in (1, 3, 4, 5)
    ]
    file.write_text("\n")
    with pytest.raises(UserError, match="no answers in it"):
        read_answers(file, [])


def test_a_function_that_raises_is_the_users_mistake(tmp_path: Path) -> None:
    code = "def f(prompt, completion):\n    return 1 / len(completion)\n"
    settings = task(
        tmp_path, code, reward={"functions": ["rewards.py:f"], "rules": [{"rule": "chars", "max": 9}]}
    )
    found = checked(settings, count=1)
    assert list(found.failed) == ["f"]
    assert "ZeroDivisionError" in found.failed["f"]
    assert "rewards.py:2" in found.failed["f"] or "line 2" in found.failed["f"]
    problem = found.problem()
    assert isinstance(problem, UserError)
    assert str(problem).startswith("The reward cannot be used as it is:\n`f`: ")
    assert checked(settings, answers=[{"prompt": "p", "answers": ["ok"]}]).problem() is None


def test_a_sanity_case_ordered_wrongly_is_a_problem(tmp_path: Path) -> None:
    wrong = {"prompt": "Hm?", "good": "this is much too long", "bad": "short"}
    found = checked(
        task(tmp_path, reward={"rules": [{"rule": "chars", "max": 9}], "sanity": [wrong]}), count=1
    )
    assert next((f.name, f.prompt) for f in found.findings) == ("sanity", "sanity 1")
    assert isinstance(found.problem(), UserError)


def test_what_cannot_be_tried_is_refused_with_the_way_out(tmp_path: Path) -> None:
    settings = task(tmp_path)
    with pytest.raises(UserError, match="nothing says what is good"):
        lay_out(task(tmp_path, reward={}))
    with pytest.raises(UserError, match="65 answers"):
        lay_out(settings, answers=[{"prompt": "p", "answers": ["x"] * 65}])
    needs = task(tmp_path, reward={"rules": [{"rule": "equals", "data": "answer"}]})
    with pytest.raises(UserError, match="answer"):
        lay_out(needs, answers=[{"prompt": "no data here", "answers": ["x"]}])
    held_out = next(p for p in lay_out(settings).cases if p)  # training's, whatever the count
    assert held_out.prompt.split == "train"


def test_answers_to_held_out_prompts_are_told(tmp_path: Path) -> None:
    from refine_rl.prompts import load_prompts

    settings = task(tmp_path)
    name = next(p.id for p in load_prompts(settings)[0] if p.split == "held_out")
    trial = lay_out(settings, answers=[{"prompt": name, "answers": ["x"]}])
    assert [note for note in trial.notes if note.startswith(f"{name}: held out")]


JUDGED = {
    "reward": {"judges": ["mine/judge"], "rules": [{"rule": "chars", "max": 12, "weight": 0.5}]},
}


def judged(tmp_path: Path, server: Any, **more: Any) -> Settings:
    endpoint = {"base_url": server.base_url, "prices": {"*": {"input": 1.0, "output": 2.0}}}
    return task(tmp_path, **JUDGED, endpoints={"mine": endpoint}, **more)


def test_a_relative_judge_sees_a_prompts_answers_in_one_group(
    tmp_path: Path, llm_server: Callable[..., Any], llm_brain: Callable[..., str]
) -> None:
    server = llm_server(brain=llm_brain)
    found = checked(judged(tmp_path, server), count=2)
    assert (found.relative, found.top, found.asking) == (True, None, {"judge"})
    assert (found.calls, len(server.requests)) == (2, 2)  # a look at each group
    assert found.cost_usd is not None
    assert found.cost_usd > 0


def test_judges_of_whom_nothing_can_be_used(tmp_path: Path, llm_server: Callable[..., Any]) -> None:
    found = checked(judged(tmp_path, llm_server(brain=lambda body: "I like them all!")), count=1)
    assert isinstance(found.problem(), MachineError)
