"""task.toml: read strictly, every problem with its place and its way out, written back exactly."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from refine_rl.errors import SettingsError, UserError
from refine_rl.settings import Settings
from refine_rl.settings.file import (
    dump_settings,
    load_settings,
    override,
    settings_from_dict,
    settings_from_run,
)


def load(folder: Path, text: str, *overrides: str) -> Settings:
    path = folder / "task.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, overrides=overrides)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(SettingsError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_a_minimal_file(tmp_path: Path) -> None:
    settings = load(tmp_path, 'task = "Say hi."\n[grpo]\nlearning_rate = 1\n')
    assert settings == Settings.model_validate(
        {"task": "Say hi.", "grpo": {"learning_rate": 1.0}, "folder": tmp_path}
    )
    assert isinstance(settings.grpo.learning_rate, float)


def test_a_folder_stands_for_its_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, 'task = "Say hi."')
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path()).folder == tmp_path


def test_a_models_folder_is_looked_for_here_and_then_beside_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, here = tmp_path / "task", tmp_path / "here"
    for folder in (task / "models" / "mine", task / "tiny", task / "both", here / "both"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    text = """task = "Say hi."
        [model]
        name = "models/mine"
        [teacher]
        model = "../task/models/mine"
        [evaluate]
        encoder = "./models/mine"
        [reward]
        rules = [{rule = "semantic", encoder = "models/mine"}, {rule = "semantic"}, {rule = "words", max = 3}]
    """
    found = load(task, text)
    mine = str(task / "models" / "mine")
    assert (found.model.name, found.evaluate.encoder) == (mine, mine)
    assert found.teacher is not None
    assert found.teacher.model == "../task/models/mine"  # it is one from here
    assert [rule.parameters.get("encoder") for rule in found.reward.rules] == [mine, None, None]
    assert settings_from_run(dump_settings(found) + f"[source]\nfolder = '{task}'\n", here) == found
    for name in ("tiny", "both", "models/yours", "some/model", "recipe:guess"):
        assert load(task, text, f"model.name={name}").model.name == name
    assert load(
        task, text, "teacher.base_url=http://127.0.0.1:8000/v1", "teacher.model=models/mine"
    ).teacher == (
        found.teacher.model_copy(update={"model": "models/mine", "base_url": "http://127.0.0.1:8000/v1"})
    )


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_bytes('\ufefftask = "Say hi."\r\n[grpo]\r\nstep = 5\r\n'.encode())
    with pytest.raises(SettingsError, match=r"task.toml:3: `grpo.step` .* `grpo.steps`\?"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "[grpo]\ngroup_size = 4",
            "3: `grpo.group_size` is not a setting; did you mean `rollout.group_size`?",
        ),
        ("[grpo]\nstep = 4", "3: `grpo.step` is not a setting; did you mean `grpo.steps`?"),
        ("[reward]\njudge = []", "3: `reward.judge` is not a setting; did you mean `reward.judges`?"),
        (
            "[endpoints.mine]\nbase_ur = 'http://x/v1'",
            "3: `endpoints.mine.base_ur` is not a setting; did you mean `endpoints.mine.base_url`?",
        ),
        (
            "[endpoints.mine]\nprices = {m = {input = 1.0, output = 1.0, inputs = 1.0}}",
            "3: `endpoints.mine.prices.m.inputs` is not a setting; did you mean `endpoints.mine.prices.m.in",
        ),
        (
            "[endpoints.mine]\nweather = 1",
            "3: `endpoints.mine.weather` is not a setting; `endpoints.mine` has: base_url, key_env, timeout",
        ),
        (
            "[writer]\nbase_url = 'http://x/v1'",
            "3: `writer.base_url` is not a setting; did you mean `endpoints.NAME.base_url` or ",
        ),
        (
            "steps = 4",
            "2: `steps` is not a setting; did you mean `grpo.steps` or `reward.steps` or `sft.steps`?",
        ),
        ("[gpro]\nsteps = 4", "2: `gpro` is not a setting; did you mean `grpo`?"),
        ("[grpo]\nbeta = 0.1", "3: `grpo.beta` is not a setting; did you mean `grpo.kl`?"),
        (
            "[model]\ntemprature = 1",
            "3: `model.temprature` is not a setting; did you mean `judge.temperature` or `rollout.temp",
        ),
        (
            "[grpo]\nmax_tokens = 4",
            "3: `grpo.max_tokens` is not a setting; did you mean `judge.max_tokens` or `prompts.max_",
        ),
        ("[budget]\nzzz = 4", "3: `budget.zzz` is not a setting; `budget` has: dollars, hours"),
        ('folder = "x"', "2: `folder` is not a setting; there are: task, name, model, prompts, "),
        ("[zzz]\nmodel = 'a/b'", "2: `zzz` is not a setting; there are: task, name, model, prompts, "),
        ("grpo = 4", "2: `grpo` must be a table, not 4"),
        ('[grpo]\nsteps = "many"', '3: `grpo.steps` must be a whole number, not "many"'),
        ("[grpo]\nsteps = 5.0", "3: `grpo.steps` must be a whole number, not 5.0"),
        ("[grpo]\nsteps = 0", "3: `grpo.steps` must be at least 1, not 0"),
        ("[grpo]\nepsilon = 0", "3: `grpo.epsilon` must be more than 0, not 0"),
        ("[grpo]\nclip_low = true", "3: `grpo.clip_low` must be a number, not true"),
        ("[grpo]\nkl = inf", "3: `grpo.kl` must be a finite number, not inf"),
        ("[model]\ndropout = 1", "3: `model.dropout` must be less than 1, not 1"),
        ("[rollout]\ntop_p = 1.5", "3: `rollout.top_p` must be at most 1, not 1.5"),
        (
            "[grpo]\nloss = 'ppo'",
            '3: `grpo.loss` must be "grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", '
            '"luspo", "dppo_tv" or "dppo_kl", not "ppo"',
        ),
        ("[model]\ntargets = 5", '3: `model.targets` must be "all-linear" or a list, not 5'),
        ("[model]\ntargets = ['q', 5]", "3: `model.targets[1]` must be text, not 5"),
        ("[reward]\nrules = {rule='words'}", '3: `reward.rules` must be a list, not {rule = "words"}'),
        ("[reward]\nrules = [\n {max=3}]", "4: `reward.rules[0].rule` is missing"),
        ("[reward]\nfunctions = [\n'a.py:f',\n5]", "5: `reward.functions[1]` must be text or a table, not 5"),
        (
            "[[reward.functions]]\nfunction='a'\nweigth=2",
            "4: `reward.functions[0].weigth` is not a setting; did you mean `reward.functions[0].weight`?",
        ),
        ("[reward.overlong]\nunit = 'words'", '2: `reward.overlong` needs `limit` with `unit = "words"`'),
        ("[grpo]\nsteps = 5\nwarmup_steps = 6", "4: `grpo.warmup_steps` is larger than `grpo.steps`"),
        ("[sft]\nsteps = 5", "2: `sft.data` is missing"),
        (
            "[sft]\ndata = 'pairs.jsonl'",
            '3: `sft.data` must be "file:PATH" or "hub:OWNER/NAME", where the answers stand',
        ),
        ("name = 'a/b'", "2: `name` names a folder inside runs/; `--run DIR` takes any other folder"),
    ],
)
def test_each_problem_names_key_line_and_way_out(tmp_path: Path, line: str, problem: str) -> None:
    found = problems(tmp_path, f'task = "Say hi."\n{line}\n')
    assert len(found) == 1
    assert found[0].startswith(f"task.toml:{problem}")


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = '[grpo]\nsteps = "many"\ngroup_size = 4\n[reward]\nrules = [{}, {rule = "words", weight = "x"}]\n'
    assert problems(tmp_path, text, "rollout.top_k=-1") == [
        'task.toml: `task` is missing: say in plain words what is wanted, as in task = "..."',
        'task.toml:2: `grpo.steps` must be a whole number, not "many"',
        "task.toml:3: `grpo.group_size` is not a setting; did you mean `rollout.group_size`?",
        "task.toml:5: `reward.rules[0].rule` is missing",
        'task.toml:5: `reward.rules[1].weight` must be a number, not "x"',
        "--set rollout.top_k=-1: `rollout.top_k` must be at least 0, not -1",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "task = hello",
            "task.toml:1: not valid TOML: invalid value at column 8; text needs quotes around it",
        ),
        (
            "a = 1\n[b",
            "task.toml:2: not valid TOML: expected ']' at the end of a table declaration at the end of ",
        ),
        ("a = 1\na = 2", "task.toml:2: not valid TOML: cannot overwrite a value at "),
    ],
)
def test_broken_toml_is_named_by_line(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text)[0].startswith(problem)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; `refine init"):
        load_settings(tmp_path)
    (tmp_path / "task.toml").write_bytes(b'task = "a"\n# caf\xe9\n')
    with pytest.raises(UserError, match=r"task.toml:2: not UTF-8"):
        load_settings(tmp_path)


def test_overrides(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        'task = "Say hi."\nname = "a"\n[grpo]\nsteps = 5\n',
        "grpo.steps=7",
        "model.name=tiny",
        "name=007",
        'task="a = b"',
        "model.adapter = none",
        "prompts.source=file:a=b.txt",
        'model.targets=["q_proj"]',
        "reward.overlong.limit=9",
        "budget={hours = 2}",
    )
    assert (settings.grpo.steps, settings.model.name, settings.name) == (7, "tiny", "007")
    assert (settings.task, settings.model.adapter) == ("a = b", "none")
    assert (settings.prompts.source, settings.model.targets) == ("file:a=b.txt", ["q_proj"])
    assert settings.reward.overlong is not None
    assert (settings.reward.overlong.limit, settings.budget.hours) == (9, 2.0)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("grpo.steps", "--set grpo.steps: write it as KEY=VALUE"),
        ("=5", "--set =5: write it as KEY=VALUE"),
        ("grpo.steps=abc", '--set grpo.steps=abc: `grpo.steps` must be a whole number, not "abc"'),
        (
            "grpo.group_size=4",
            "--set grpo.group_size=4: `grpo.group_size` is not a setting; did you mean `rollout.",
        ),
        ("task.x=5", "--set task.x=5: `task` is not a table"),
        ("model.targets=[q]", "--set model.targets=[q]: the value is not valid TOML"),
        ("grpo.steps=5\nother=6", "--set grpo.steps=5"),
        (
            "reward.overlong={limt=3}",
            "--set reward.overlong={limt=3}: `reward.overlong.limt` is not a setting; did",
        ),
    ],
)
def test_broken_overrides_name_themselves(tmp_path: Path, given: str, problem: str) -> None:
    assert problems(tmp_path, 'task = "Say hi."', given)[0].startswith(problem)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("model.targets=[q, 'v'", ""),  # quotes came through: something else is wrong
        (
            "model.targets=[q, v_proj]",
            """; the shell takes quotes away: --set 'model.targets=["q", "v_proj"]'""",
        ),
        (
            "reward.rules=[{rule=words}]",
            "; text needs quotes, which the shell takes away: put '...' around KEY=VALUE",
        ),
    ],
)
def test_quotes_that_a_shell_took_away(tmp_path: Path, typed: str, hint: str) -> None:
    (problem,) = problems(tmp_path, 'task = "Say hi."', typed)
    assert problem.partition(")")[2] == hint
    if "--set" in hint:  # what is advised does what was meant
        _, advised = shlex.split(hint.partition("away: ")[2])
        assert load(tmp_path, 'task = "Say hi."', advised).model.targets == ["q", "v_proj"]


def test_overrides_of_settings_that_are_there(tmp_path: Path) -> None:
    settings = load(tmp_path, 'task = "Say hi."\n[model]\nname = "tiny"\n')
    changed = override(settings, ["grpo.steps=7"])
    assert changed == load(tmp_path, 'task = "Say hi."\nmodel.name = "tiny"\ngrpo.steps = 7\n')
    with pytest.raises(SettingsError) as caught:
        override(settings, ["grpo.steps=7", "grpo.warmup_steps=8", "model.nam=1"])
    assert str(caught.value) == "--set model.nam=1: `model.nam` is not a setting; did you mean `model.name`?"
    with pytest.raises(SettingsError, match=r"^--set grpo.warmup_steps=8: `grpo.warmup_steps` is larger"):
        override(settings, ["grpo.steps=7", "grpo.warmup_steps=8"])


def test_a_problem_in_an_overridden_table_is_the_overrides(tmp_path: Path) -> None:
    text = 'task = "Say hi."\n\n\n\n[budget]\nhours = 2\n'
    assert problems(tmp_path, text, "budget={hours = 0}") == [
        "--set budget={hours = 0}: `budget.hours` must be more than 0, not 0"
    ]


def test_a_combination_that_an_override_makes_impossible_is_the_overrides(tmp_path: Path) -> None:
    """Also where another key, which stands in the file, is named first."""
    file = tmp_path / "task.toml"
    file.write_text('task = "x"\n[grpo]\nsteps = 9\n')
    with pytest.raises(SettingsError, match=r"^--set grpo.flat=sign: .* needs `grpo.solved`"):
        load_settings(file, overrides=["grpo.flat=sign"])
    file.write_text('task = "x"\n[grpo]\nwarmup_steps = 9\n')
    with pytest.raises(SettingsError, match=r"^--set grpo.steps=3: `grpo.warmup_steps` is larger"):
        load_settings(file, overrides=["grpo.steps=3"])


def test_a_dict_is_as_strict_as_a_file(tmp_path: Path) -> None:
    settings = settings_from_dict({"task": "Say hi.", "grpo": {"steps": 3}}, tmp_path)
    assert (settings.grpo.steps, settings.folder) == (3, tmp_path)
    with pytest.raises(SettingsError) as caught:
        settings_from_dict({"task": "", "grpo": {"stepz": 3}, "folder": tmp_path}, tmp_path)
    assert str(caught.value).splitlines() == [
        "`folder` is not a setting; there are: "
        + ", ".join(key for key in Settings.model_fields if key != "folder"),
        "`grpo.stepz` is not a setting; did you mean `grpo.steps`?",
        "`task` is empty; say in plain words what is wanted",
    ]


def test_settings_of_a_run(tmp_path: Path) -> None:
    settings = load(tmp_path, 'task = """\nTwo\nlines."""\n[grpo]\nseed = 3\n')
    text = dump_settings(settings)
    assert 'task = """\nTwo\nlines."""' in text
    extra = f"\n[versions]\ntorch = '2'\n[source]\nfolder = '{tmp_path}'\n"
    assert settings_from_run(text + extra, tmp_path / "runs" / "a") == settings
    assert settings_from_run(text, tmp_path / "runs" / "a").folder == tmp_path / "runs" / "a"
    with pytest.raises(SettingsError, match=r"config.toml:2: `stepz`"):
        settings_from_run('task = "a"\nstepz = 1', tmp_path)


def section(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=SECTIONS[name])


TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["a\nb", 'a\n"""', 'x"\n"', "\\\n", "a\r\nb"]
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=1e-300, max_value=1.0, exclude_max=True)
PLAIN = st.recursive(
    TEXT | NUMBER | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
RULE = st.fixed_dictionaries(
    {"rule": TEXT}, optional={"weight": NUMBER, "name": TEXT, "max": PLAIN, "odd key": PLAIN}
)
FUNCTION = TEXT | st.fixed_dictionaries(
    {"function": TEXT}, optional={"weight": NUMBER, "messages": st.booleans()}
)
SANITY = st.fixed_dictionaries(
    {"prompt": TEXT, "good": TEXT, "bad": TEXT}, optional={"data": st.dictionaries(TEXT, PLAIN, max_size=2)}
)
OVERLONG = st.fixed_dictionaries({"limit": st.integers(min_value=1)}, optional={"weight": NUMBER})
SECTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "model": {
        "name": TEXT.filter(str.strip),
        "dropout": POSITIVE,
        "targets": st.just("all-linear") | st.lists(TEXT, max_size=2),
    },
    "prompts": {"source": TEXT, "train": st.integers(min_value=1), "near_duplicate": POSITIVE},
    "reward": {
        "rules": st.lists(RULE, max_size=2),
        "functions": st.lists(FUNCTION, max_size=2),
        "weights": st.dictionaries(TEXT, NUMBER, max_size=2),
        "overlong": OVERLONG,
        "sanity": st.lists(SANITY, max_size=2),
    },
    "rollout": {"temperature": POSITIVE, "top_k": st.integers(min_value=0)},
    "grpo": {
        "learning_rate": POSITIVE,
        "loss": st.sampled_from(["grpo", "dapo"]),
        "seed": st.integers(min_value=0),
    },
    "budget": {"hours": POSITIVE},
}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(
    st.fixed_dictionaries(
        {"task": TEXT.filter(str.strip)},
        optional={name: section(name) for name in SECTIONS},
    )
)
def test_settings_come_back_exactly(data: dict[str, Any]) -> None:
    settings = settings_from_dict(data, Path())
    text = dump_settings(settings)
    assert settings_from_dict(tomllib.loads(text), Path()) == settings
    assert dump_settings(settings_from_dict(tomllib.loads(text), Path())) == text


def test_every_setting_is_written(tmp_path: Path) -> None:
    written = tomllib.loads(dump_settings(load(tmp_path, 'task = "Say hi."')))
    expected = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            expected[name] = {k for k, v in field.default.model_dump().items() if v is not None}
    assert {name: set(written[name]) for name in expected} == expected
    assert "folder" not in written


def test_values_that_toml_cannot_express_are_refused() -> None:
    settings = settings_from_dict(
        {"task": "a", "reward": {"rules": [{"rule": "words", "max": object()}]}}, Path()
    )
    with pytest.raises(SettingsError, match="cannot be written"):
        dump_settings(settings)


def test_reading_settings_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; import refine_rl.settings.file, refine_rl.prompts.sources, refine_rl.recipes; "
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grpo]\nsteps = " + "9" * 5000, ":3: a whole number of 5,000 digits is too long to be read"),
        (
            "\n[reward]\nrules = " + "[" * 50_000 + "]" * 50_000,
            ":4: nested too deeply: too many brackets inside each other",
        ),
    ],
)
def test_what_is_too_much_to_be_read_is_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "task.toml"
    file.write_text(f'task = "Say hi."\n{text}\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert str(caught.value) == f"{file}{said}"


def test_what_is_too_much_for_a_set_is_named_by_its_key(tmp_path: Path) -> None:
    file = tmp_path / "task.toml"
    file.write_text('task = "Say hi."\n')
    with pytest.raises(SettingsError, match=r"^--set grpo.steps: the number is too long to be read$"):
        load_settings(file, overrides=["grpo.steps=" + "9" * 5000])
    with pytest.raises(SettingsError, match=r"^--set reward.rules: the value is nested too deeply$"):
        load_settings(file, overrides=["reward.rules=" + "[" * 50_000 + "]" * 50_000])
