"""Wrong arguments of every verb: refused by name, with the way out, before anything is loaded or written."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refine_rl as refine
from refine_rl.api import checks
from refine_rl.api.arguments import Task, task_file
from refine_rl.errors import SettingsError, UserError
from refine_rl.foreign.given import given
from refine_rl.pipeline.given import Given
from refine_rl.progress import Quiet


def brevity(prompt: str, completion: str) -> float:
    return 1.0


def text_only(text: str) -> float:
    return 1.0


def untold(query: str) -> str:
    """A tool."""
    return query


class Guess:
    def start(self, data: Any, seed: int) -> str:
        return ""

    def step(self, reply: str) -> tuple[str, float, bool]:
        return "", 0.0, True


VERBS: dict[str, dict[str, Any]] = {
    "train": {"task": "Be brief.", "prompts": ["one"], "rewards": [brevity]},
    "plan": {"task": "Be brief.", "prompts": ["one"], "rewards": [brevity]},
    "prompts": {"task": "Be brief.", "prompts": ["one"]},
    "check": {
        "task": "Be brief.",
        "prompts": ["Greet the cat.", "Name a river in the north.", "How tall is a house?"],
        "rewards": [brevity],
    },
    "sft": {"data": [{"prompt": "one", "answer": "two"}], "model": "tiny"},
    "resume": {"run": "nowhere"},
    "resume_sft": {"run": "nowhere"},
    "open_run": {"run": "nowhere"},
    "evaluate": {"run": "nowhere"},
    "compare_runs": {"a": "nowhere", "b": "elsewhere"},
    "chat": {"run": "nowhere"},
    "generate": {"run": "nowhere", "prompts": "Hello."},
    "export": {"run": "nowhere", "out": "out"},
    "score_group": {
        "messages": [{"role": "user", "content": "Hi."}],
        "completions": ["Hello."],
        "judge": "a/b",
    },
}
"""Calls in which nothing but `run` is wrong."""

Wrong = list[tuple[Any, str]]
TASK: Wrong = [
    (5, r"task=5: say in plain words what is wanted, or give the path of a task\.toml"),
    (None, "task=None: say in plain words"),
    ({"task": "x"}, "task={'task': 'x'}: say"),
    (brevity, "task=brevity: say"),
    (" ", "say in plain words what is wanted"),
    ("nothing.toml", "nothing.toml: no such file; `refine init my-task` makes"),
    (Path("nowhere"), "nowhere: no such file"),
]
MODEL: Wrong = [
    (5, 'model=5: give a hub id, a folder or "tiny"; or the section'),
    ("", "model='': give a hub id"),
    (object, "model=object: give a hub id"),
    (["tiny"], r"model=\['tiny'\]: give a hub id"),
    ({"nam": "tiny"}, "did you mean `model.name`"),
    ({"rank": "high"}, "`model.rank` must be a whole number"),
]
PROMPTS: Wrong = [
    ([], r"prompts=\[\]: there is no prompt in it; give a file, a list"),
    ("", "prompts='': there is no prompt in it"),
    ({}, "prompts={}: there is no prompt in it"),
    (iter([]), r"prompts=\[\]: there is no prompt in it"),
    (5, "prompts=5: give a file, a list"),
    (b"one", "prompts=b'one': give a file"),
    (["one", 2], r"prompts\[1\] is 2: give a string, or a dict with `prompt`"),
    ([{"prompt": "one", "x": {1}}], r"prompts\[0\] cannot be written as JSON"),
    ("nowhere.jsonl", r"nowhere\.jsonl: no such file"),
    ({"sauce": "file:x"}, "did you mean `prompts.source`"),
]
REWARDS: Wrong = [
    (brevity, r"rewards is a list of functions: rewards=\[brevity\]"),
    ({}, r"rewards={}: rewards is a list of functions: rewards=\[\.\.\.\]"),
    ("rewards.py:f", r"rewards='rewards.py:f': rewards is a list of functions"),
    (["rewards.py:f"], r"rewards\[0\]='rewards.py:f': give the function itself; one in a file is named by"),
    (None, "rewards=None: rewards is a list of functions"),
    ([brevity, text_only], r"rewards\[1\]: `text_only\(text: 'str'\).*` is no reward function: write `def f"),
    ([lambda text: 1.0], r"rewards\[0\]: `function\(text\)` is no reward function: write"),
    ([Guess], r"rewards\[0\]: `Guess.*` is no reward function"),
]
RULES: Wrong = [
    ({}, r'rules={}: a list of tables, as in rules=\[{"rule": "words", "max": 20}\]'),
    ({"rule": "words"}, "rules={'rule': 'words'}: a list of tables"),
    ("words", "rules='words': a list of tables"),
    (["words"], r"rules\[0\]='words': a list of tables"),
    (None, "rules=None: a list of tables"),
    ([brevity], r"rules\[0\]=brevity: a function is a reward: rewards=\[brevity\]"),
    (brevity, r"rules=brevity: a function is a reward: rewards=\[brevity\]"),
    ([{"rule": "wrods", "max": 3}], "there is no rule `wrods`; did you mean `words`"),
]
WRITER: Wrong = [
    (5, 'writer=5: "ENDPOINT/MODEL", or the section'),
    (["a/b"], r"writer=\['a/b'\]: \"ENDPOINT/MODEL\""),
    ({"modle": "a/b"}, "did you mean `writer.model`"),
]
JUDGE: Wrong = [
    (5, 'judge=5: "ENDPOINT/MODEL", a list of these, or the section'),
    ([], r"judge=\[\]: \"ENDPOINT/MODEL\""),
    ([5], r"judge=\[5\]: \"ENDPOINT/MODEL\""),
    (brevity, r"judge=brevity: a function of your own is a reward: rewards=\[brevity\]"),
    ({"kid": "ruler"}, "did you mean `judge.kind`"),
]
WORLD: Wrong = [
    ("my_env.py:Guess", r'environment=\'my_env.py:Guess\': one in a file is named by rollout={"environment"'),
    (5, "environment=5: give the class itself: environment=int"),
    (Guess(), "give the class itself: environment=Guess"),
    (brevity, r"environment=brevity: give a class with `start\(self, data, seed\)`"),
]
TOOLS: Wrong = [
    (untold, r"tools is a list of functions: tools=\[untold\]"),
    (["tools.py:search"], r"tools\[0\]='tools.py:search': give the function itself; one in a file"),
    (None, "tools=None: tools is a list of functions"),
    ([untold, untold], "tools: two of them have one name"),
]
OBSERVER: Wrong = [
    (5, "observer=5: give an object with the methods of refine_rl.Observer: stage, note, warning, step"),
    (Quiet, "observer=Quiet: give an object with"),
    (print, "observer=print: give an object with"),
]
RUN: Wrong = [
    (5, "run=5: give the path of a (run's )?folder"),
    ("", "run='': give the path of a (run's )?folder"),
    (b"runs", "run=b'runs': give the path of a (run's )?folder"),
]
A_RUN: Wrong = [
    *RUN,
    (None, "run=None: give the path of a run's folder"),
    ("nowhere", "nowhere is not a run"),
]
A_NEW_RUN: Wrong = [
    *RUN,
    ("taken", r"run='taken' is there already and is no run; name another folder"),
]
SECTIONS: Wrong = [
    ({"grpo": 3}, "`grpo` must be a table, not 3"),
    ({"grpo": {"stepz": 3}}, "did you mean `grpo.steps`"),
    ({"grpo": {"steps": "many"}}, '`grpo.steps` must be a whole number, not "many"'),
    ({"grpo": {"steps": None}}, "`grpo.steps` must be a whole number, not None"),
    ({"grop": {"steps": 3}}, "`grop` is not a setting; did you mean `grpo`"),
    (
        {"steps": 3},
        r"steps is no argument of its own but a setting: grpo=\{'steps': \.\.\.\} or sft=",
    ),
    ({"prompts_per_step": 3}, r"but a setting: grpo=\{'prompts_per_step': \.\.\.\}"),
    ({"max_tokens": 3}, r"max_tokens is no argument of its own but a setting: .*rollout=\{'max_tokens': "),
    ({"reward": brevity}, r"reward=brevity: this is a section, a dict; code is given as rewards=\[brevity\]"),
    ({"reward": [brevity]}, "reward=.*: this is a section, a dict; code is given as rewards="),
    ({"reward": {"functions": [brevity]}}, "reward.functions=.*: code from Python is given as rewards="),
    ({"rollout": {"environment": Guess}}, "rollout.environment=Guess: code from Python is given as environm"),
    ({"rollout": {"tools": [untold]}}, "rollout.tools=.*: code from Python is given as tools="),
    ({"rollout": Guess}, "rollout=Guess: this is a section, a dict; code is given as environment="),
    ({"reward_funcs": [brevity]}, "reward_funcs is no argument; did you mean rewards="),
    ({"promts": ["one"]}, "promts is no argument; did you mean prompts="),
    ({"observers": Quiet()}, "observers is no argument; did you mean observer="),
    ({"env": Guess}, "env is no argument; did you mean environment="),
    ({"folder": "x"}, "folder is no argument; did you mean run="),
]
SET: Wrong = [
    (5, r'set=5: settings by their keys, as in set={"grpo.steps": 50}'),
    ({5: 5}, r'a key is a text, as in set={"grpo.steps": 50}, not 5'),
    ({"grpo.steps": object}, r"set\['grpo.steps'\]=object: a number, a text"),
]
STEP: Wrong = [(value, f"step={value!r}: give a whole number from 0 on") for value in (-1, "4", 1.5, True)]
CHECKPOINT: Wrong = [
    (value, f'checkpoint={re.escape(repr(value))}: give "best", "last" or the step of one')
    for value in ("first", 0, 1.5, [])
]
MESSAGES: Wrong = [
    (5, "prompts=5: give a text, or a list of texts"),
    ("", "prompts='': give what the model is to answer"),
    ([], r"prompts=\[\]: there is nothing to answer"),
    (["one", None], r"prompts=\['one', None\]: give a text, or a list of texts"),
]
SECTION: Wrong = [(5, "must be a table, not 5"), ({"stepz": 1}, "is not a setting")]


def whole(name: str, least: int) -> Wrong:
    return [(v, f"{name}={v!r}: give a whole number from {least} on") for v in (least - 1, "3", 0.5, True)]


def words(name: str) -> Wrong:
    return [(v, f"{name}={v!r}: give ") for v in (5, " ")]


SEEDS = whole("seeds", 2)
NEW = {
    "task": TASK,
    "model": MODEL,
    "prompts": PROMPTS,
    "rewards": REWARDS,
    "rules": RULES,
    "writer": WRITER,
    "judge": JUDGE,
    "environment": WORLD,
    "tools": TOOLS,
    "sections": SECTIONS,
}
RIVALS: Wrong = [
    ("best_of_n", r'rivals=\'best_of_n\': give a list, as in rivals=\["best_of_n"\]'),
    (5, "rivals=5"),
]
AGAIN = {"rewards": REWARDS, "environment": WORLD, "tools": TOOLS}
TALK = {
    "run": A_RUN,
    "checkpoint": CHECKPOINT,
    "temperature": [(v, f"temperature={v!r}: give a number from 0 on") for v in (-1, "hot", float("nan"))],
    "max_tokens": whole("max_tokens", 1),
    "system": words("system"),
    "environment": WORLD,
    "tools": TOOLS[:-1],
}
WRONG: dict[str, dict[str, Wrong]] = {
    "train": {**NEW, "rivals": RIVALS, "seeds": SEEDS, "run": A_NEW_RUN, "observer": OBSERVER},
    "plan": {**NEW, "seeds": SEEDS},
    "prompts": {
        "task": TASK,
        "prompts": PROMPTS,
        "writer": WRITER,
        "observer": OBSERVER,
        "sections": [(s, m) for s, m in SECTIONS if "observers" not in s],
    },
    "check": {
        **{name: wrong for name, wrong in NEW.items() if name not in ("model", "writer")},
        "answers": [
            ([], r"answers=\[\]: give a JSONL file, or rows"),
            (5, "answers=5: give a JSONL file"),
            (["one"], r"answers=\['one'\]: give a JSONL file, or rows"),
            ("nowhere.jsonl", "nowhere.jsonl: no such file"),
        ],
        "count": whole("count", 1),
        "observer": OBSERVER,
    },
    "sft": {
        "data": [
            ([], r"data=\[\]: there is no row in it; give a file of rows, or a list"),
            (5, "data=5: give a file of rows"),
            ({"prompt": "a"}, "data={'prompt': 'a'}: give a file of rows"),
            (["one"], r"data\[0\] is 'one': give a dict with `prompt`"),
            ("nowhere.jsonl", r"nowhere\.jsonl"),
        ],
        "task": TASK[:-2],
        "model": MODEL,
        "run": A_NEW_RUN,
        "observer": OBSERVER,
        "rollout": SECTION,
        "budget": SECTION,
        "track": SECTION,
        "settings": [
            ({"stepz": 3}, "did you mean `sft.steps`"),
            ({"steps": "many"}, "`sft.steps` must be a whole number"),
        ],
    },
    "resume": {"run": A_RUN, "step": STEP, "set": SET, **AGAIN, "observer": OBSERVER},
    "resume_sft": {
        "run": A_RUN,
        "step": STEP,
        "set": SET,
        "steps": whole("steps", 1),
        "observer": OBSERVER,
    },
    "open_run": {"run": A_RUN},
    "evaluate": {
        "run": A_RUN,
        "probes": [("no", "probes='no': give True or False"), (1, "probes=1: give True or False")],
        "prompts": [
            *PROMPTS[:3],
            *PROMPTS[4:6],
            ({"source": "x"}, "prompts=.*: give a file, a source or a list"),
        ],
        "samples": whole("samples", 1),
        "seed": whole("seed", 0),
        "judge": words("judge"),
        "metrics": [
            ("rouge", r'metrics=\'rouge\': give a list, as in metrics=\["rouge"\]'),
            (5, "metrics=5"),
        ],
        "reference": words("reference"),
        "rivals": RIVALS,
        "checkpoint": CHECKPOINT,
        "name": words("name"),
        "set": SET,
        **AGAIN,
        "observer": OBSERVER,
    },
    "compare_runs": {
        "a": [
            (5, "a=5: give the path of a run's folder"),
            (None, "a=None"),
            ("nowhere", "nowhere: there is no run"),
        ],
        "b": [(5, "b=5: give the path of another run, or the name of a model"), ("", "b=''")],
        "prompts": [*PROMPTS[:3], *PROMPTS[4:6]],
        "samples": whole("samples", 1),
        "seed": whole("seed", 0),
        "judge": words("judge"),
        "again": [("yes", "again='yes': give True or False")],
        "name": words("name"),
        "set": SET,
        **AGAIN,
        "observer": OBSERVER,
    },
    "chat": TALK,
    "generate": {**TALK, "prompts": MESSAGES, "base": [("yes", "base='yes': give True or False")]},
    "export": {
        "run": A_RUN,
        "out": [(5, "out=5: give the path of a new folder"), ("", "out='': give")],
        "merged": [("yes", "merged='yes': give True or False")],
        "dtype": [
            ("float16", 'dtype=\'float16\': give "float32" or "bfloat16"'),
            ("float32", "dtype='float32': it goes with merged=True"),
        ],
        "gguf": [(5, "gguf=5: give the path of a new file")],
        "ollama": [("", "ollama='': give the name"), (5, "ollama=5: give the name")],
        "outtype": [("q4", 'outtype=\'q4\': give "f32", "f16", "bf16" or "q8_0"')],
        "llama_cpp": [(5, r"llama_cpp=5: give the path of llama\.cpp's folder")],
        "hub": [(5, 'hub=5: give "OWNER/NAME"')],
        "private": [("yes", "private='yes': give True or False")],
        "checkpoint": CHECKPOINT,
        "check": [("no", "check='no': give True or False")],
        "observer": OBSERVER,
    },
    "score_group": {
        "messages": [
            ("Hi.", r'messages=\'Hi.\': give a list, as in \[{"role": "user"'),
            ([], r"messages=\[\]: give a list"),
            ([{"role": "user"}], r"messages=.*: give a list"),
        ],
        "completions": [
            ("Hello.", "completions='Hello.': give a list of texts"),
            ([5], "give a list of texts"),
        ],
        "judge": [
            (None, 'judge=None: give "ENDPOINT/MODEL"'),
            ("", "judge='': give"),
            ({"kind": "ruler"}, 'give "ENDPOINT/MODEL"'),
            (brevity, "a function of your own is a reward"),
        ],
        "task": words("task")[:1],
        "rubric": [({"base_url": "http://127.0.0.1:9/v1", "rubric": Path("nowhere.md")}, "nowhere.md")],
        "base_url": words("base_url"),
        "key_env": [
            *words("key_env"),
        ],
        "repeats": whole("repeats", 1),
        "kind": [
            (
                {"base_url": "https://a.example/v1", "kind": "ruler"},
                "^key_env= must name the environment variable",
            ),
            ({"base_url": "http://127.0.0.1:9/v1", "kind": "rulre"}, "kind: Input should be"),
        ],
        "connections": [],
    },
}


def cases() -> list[Any]:
    return [
        pytest.param(verb, name, value, message, id=f"{verb}-{name}-{number}")
        for verb, parameters in WRONG.items()
        for name, wrong in parameters.items()
        for number, (value, message) in enumerate(wrong)
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_no_parameter_is_forgotten(verb: str) -> None:
    assert set(inspect.signature(getattr(refine, verb)).parameters) == set(WRONG[verb])


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(verb: str, arguments: dict[str, Any]) -> Any:
    done = getattr(refine, verb)(**arguments)
    return asyncio.run(done) if inspect.iscoroutine(done) else done


@pytest.mark.parametrize(("verb", "name", "value", "message"), cases())
def test_a_wrong_argument(
    empty: Path, monkeypatch: pytest.MonkeyPatch, verb: str, name: str, value: Any, message: str
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("refine_rl.engines.base.load_policy", loaded)
    given_as = value if name in ("sections", "settings", "rubric", "kind") else {name: value}
    with pytest.raises(UserError, match=message):
        call(verb, {**VERBS[verb], **given_as})
    assert sorted(p.name for p in empty.rglob("*") if p.name != "runs") == ["mine.txt", "taken"]


def test_all_mistakes_are_told_at_once(empty: Path) -> None:
    with pytest.raises(UserError) as told:
        refine.train(5, rules={}, rewards=brevity, observer=3)  # type: ignore[arg-type]
    lines = str(told.value).splitlines()
    assert [line.partition("=")[0].partition(" ")[0] for line in lines] == [
        "task",
        "rules",
        "rewards",
        "observer",
    ]


def test_none_of_a_model_is_the_usual_one() -> None:
    assert Task(task="Be brief.", model=None).settings().model.name == "Qwen/Qwen2.5-0.5B-Instruct"


def test_values_of_other_kinds_that_mean_the_same(empty: Path) -> None:
    task = Task(
        task="Be brief.",
        model=Path("mine"),
        prompts={"source": Path("x.jsonl")},
        sections={
            "grpo": {"steps": np.int64(3), "learning_rate": np.float32(0.5)},
            "reward": {"judges": ("a/b",)},
        },
    )
    task.check()
    settings = task.settings()
    assert (settings.model.name, settings.prompts.source) == ("mine", "x.jsonl")
    assert (settings.grpo.steps, settings.grpo.learning_rate, settings.reward.judges) == (3, 0.5, ["a/b"])
    assert Task(task="t", prompts=np.array(["one", "two"])).prompt_lines() == (
        '{"prompt": "one"}\n{"prompt": "two"}\n'
    )


@pytest.mark.parametrize(
    ("prompts", "source"),
    [
        ("writer", "writer"),
        ("hub:a/b", "hub:a/b"),
        ("recipe:dots", "recipe:dots"),
        ("reasoning-gym:gcd", "reasoning-gym:gcd"),
        ("file:x.jsonl", "file:x.jsonl"),
    ],
)
def test_sources_are_taken_as_they_are(prompts: str, source: str) -> None:
    assert Task(task="t", prompts=prompts, writer="ollama/w").settings().prompts.source == source


def test_a_path_begins_where_python_stands(empty: Path) -> None:
    assert Task(task="t", prompts="x.jsonl").settings().prompts.source == f"file:{empty / 'x.jsonl'}"


def test_a_folder_with_a_task_is_a_path_and_no_description(empty: Path) -> None:
    (empty / "mine").mkdir()
    assert task_file("mine") is None
    (empty / "mine" / "task.toml").write_text('task = "Be brief."\n')
    assert task_file("mine") == Path("mine")
    assert Task(task="mine").settings().task == "Be brief."
    assert task_file("Summarise mine/task.toml in one line.") is None
    assert task_file("x" * 5000) is None


def test_code_stands_in_the_settings_by_name(empty: Path) -> None:
    code = Given(environment=Guess)
    settings = Task(task="t", given=code, sections={"rollout": {"turns": 3}}).settings()
    assert (settings.rollout.environment, settings.rollout.turns) == ("python:Guess", 3)
    tools = Task(task="t", given=Given(tools=[untold]), rules=[{"rule": "words", "max": 3}]).settings()
    assert tools.rollout.tools == ["python:untold"]
    with pytest.raises(SettingsError, match="an `environment` and `tools`, and plays one of them"):
        Task(task="t", given=Given(environment=Guess, tools=[untold])).settings()


def test_code_that_is_not_given_again_is_asked_for(empty: Path) -> None:
    from refine_rl.envs.stage import stage_of

    rollout = Task(task="t", given=Given(environment=Guess)).settings().rollout
    with pytest.raises(SettingsError, match=r"rollout.environment: the class `Guess` was given from Python"):
        stage_of(rollout, empty)
    with given({"Guess": Guess}):
        stage = stage_of(rollout, empty)
    assert stage is not None
    assert stage.make is Guess


def test_a_class_of_another_form_is_refused_in_words_of_python(empty: Path) -> None:
    class Half:
        def start(self, data: Any, seed: int) -> str:
            return ""

    with pytest.raises(UserError, match=r"^environment: `Half` has no method `step`; it wants a class with"):
        refine.plan("Be brief.", model="tiny", prompts=["one"], environment=Half)


def test_a_tool_of_another_form_is_refused_in_words_of_python(empty: Path) -> None:
    def bare(query: str) -> str:
        return query

    with pytest.raises(UserError, match=r"^tools\[0\]: the tool `bare` has no docstring"):
        refine.plan("t", model="tiny", prompts=["one"], tools=[bare], rules=[{"rule": "words", "max": 3}])


def test_settings_by_key_or_by_section() -> None:
    assert checks.overrides({"grpo": {"steps": 5, "kl": 0.1}, "model.name": "x"}) == [
        "grpo.steps=5",
        "grpo.kl=0.1",
        'model.name="x"',
    ]
    assert checks.overrides({"grpo.steps": np.int64(5)}) == ["grpo.steps=5"]


Room = Callable[..., Any]


@pytest.mark.parametrize("verb", ["plan", "prompts", "evaluate"])
def test_a_room_that_has_a_verbs_name_is_both(verb: str) -> None:
    """Importing `refine_rl.plan` puts the room in the place of the verb; called, it still is the verb."""
    __import__(f"refine_rl.{verb}")
    room = getattr(refine, verb)
    assert room is sys.modules[f"refine_rl.{verb}"]
    assert inspect.signature(room) == inspect.signature(room._verb)
    assert room.__doc__ == room._verb.__doc__
    with pytest.raises(UserError):
        room(5)
