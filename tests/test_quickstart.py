"""docs/quickstart.md, its three ways walked as they are written, with a few steps and the bundled model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[1] / "docs" / "quickstart.md").read_text(encoding="utf-8")
Refine = Callable[..., Any]
FEW = {
    "train": ("grpo.steps=1", "grpo.validate_every=0", "evaluate.samples=1", "rollout.max_tokens=24"),
    "plan": (),
}


def way(heading: str) -> str:
    return PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]


def block(name: str) -> str:
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def commands(section: str) -> Iterator[list[str]]:
    """The words of each `refine` command of a section, without `refine`."""
    for language, fenced in re.findall(r"(?ms)^```(\w*)\n(.*?)^```", section):
        for line in [] if language else fenced.splitlines():
            if line.startswith("refine "):
                yield shlex.split(line, comments=True)[1:]


def go(refine: Refine, words: list[str], *settings: str, **more: Any) -> Any:
    flags = [flag for setting in settings for flag in ("--set", setting)]
    done = refine(*words, *flags, **more)
    assert done.code == 0, (words, done.err)
    return done


def test_offline(refine: Refine, tmp_path: Path) -> None:
    few = ("prompts.train=16", "prompts.validation=2", "prompts.held_out=5", "grpo.prompts_per_step=2")
    go(refine, ["demo"], *FEW["train"], *few)  # what `make demo` runs
    asked = re.search(r"```text\n(Rewrite .*)\nbase: ", PAGE)
    assert asked is not None
    done = []
    for words in commands(way("On two CPU cores, offline")):
        few = FEW.get(words[0], ())
        result = go(refine, words, *few, stdin=f"{asked[1]}\n\n")
        if words[0] == "chat":
            assert re.search(r"(?m)^base: .*\ntuned: ", result.out)
        done.append(words[0])
    assert done == ["chat", "init", "plan", "train"]
    assert (tmp_path / "runs" / "my-task" / "report.html").is_file()


def test_with_a_model_of_ones_own(refine: Refine, tmp_path: Path) -> None:
    init, plan, train = commands(way("On one GPU, with a model from the hub"))
    go(refine, init)
    assert refine(*plan).code == 2  # until the two files are replaced
    rows = [json.loads(line) for line in block("shop/prompts.jsonl").splitlines()]
    many = [{**row, "prompt": f"{row['prompt']} No {n}."} for n in range(20) for row in rows]
    Path("shop/prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    Path("shop/rewards.py").write_text(block("shop/rewards.py"))
    assert "size is unknown" in go(refine, plan).out  # no hub here
    assert "memory" in go(refine, plan, "model.name=tiny").out
    go(refine, train, *FEW["train"], "model.name=tiny")
    assert (tmp_path / "runs" / "shop" / "report.html").is_file()


def test_the_reward_of_the_page() -> None:
    names: dict[str, Any] = {}
    exec(block("shop/rewards.py"), names)  # noqa: S102  it is ours
    good = names["good"]
    assert good("", "I am sorry. Your order is on its way.", "order") == 1.0
    assert good("", "Your order is on its way.", "order") == 0.75
    assert good("", "No", "order") == 0.0
    assert good("", "Wait. Wait. Wait. Thank you.", "order") == 0.25


def test_with_an_endpoint(
    refine: Refine, tmp_path: Path, llm_server: Callable[..., Any], llm_brain: Callable[..., str]
) -> None:
    server = llm_server(brain=llm_brain)
    init, plan, train = commands(way("With an endpoint: no data, no code"))
    go(refine, init)
    there = (f'endpoints.openrouter.base_url="{server.base_url}"', "model.name=tiny")
    assert "dollars" in go(refine, plan, *there).out
    few = ("prompts.train=12", "prompts.validation=3", "prompts.held_out=6", "writer.batch=7")
    go(refine, train, *there, *FEW["train"], *few)
    assert (tmp_path / "runs" / "complaints" / "comparison.json").is_file()
    assert (
        "dollars = " in (tmp_path / "complaints" / "task.toml").read_text()
    )  # the cap that the page tells of
