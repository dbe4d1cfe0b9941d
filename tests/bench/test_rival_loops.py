"""The rival loops of the benchmarks: what their judge is asked, what a failed one does, what is learned."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from llm_server import LlmServer
from make import prompt
from refine_rl.recipes import load_task

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = (
    "grpo.steps=2",
    "grpo.prompts_per_step=2",
    "rollout.group_size=2",
    "rollout.max_tokens=4",
    "prompts.train=8",
    "prompts.validation=2",
    "prompts.held_out=2",
    "evaluate.samples=1",
    'model.dtype="float32"',
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rivals() -> Iterator[ModuleType]:
    yield load("rival_loops")
    del sys.modules["rival_loops"]


def replies(*scores: float) -> str:
    return json.dumps(
        {"scores": [{"trajectory_id": "?", "explanation": "-", "score": score} for score in scores]}
    )


@contextmanager
def judging(rivals: ModuleType, *said: str) -> Iterator[tuple[Any, LlmServer]]:
    """A judge that says these things in turn."""
    rest = list(said)
    server = LlmServer(brain=lambda body: rest.pop(0))
    try:
        yield rivals.Judge(server.base_url, "Be brief."), server
    finally:
        server.stop()


PROMPT = prompt("p0001", "Say\nit.")


def test_a_ruler_sees_a_group_in_one_request(rivals: ModuleType) -> None:
    with judging(rivals, replies(0.25, 1), replies(0.5)) as (judge, server):
        ruler = rivals.Ruler(judge=judge)
        assert ruler(PROMPT, ["a", "b"]) == [0.25, 1.0]  # by place: the ids are not looked at
        assert ruler(PROMPT, ["a", "a", "a"]) == [0.5] * 3
        assert ruler.calls == 2
        both, one = (r["messages"][1]["content"] for r in server.requests)
    assert both == (
        '<context>\n[{"role": "user", "content": "Say\\nit."}]\n</context>\n\nTrajectories:\n\n'
        '<trajectory id="1">\n[{"role": "assistant", "content": "a"}]\n</trajectory>\n\n'
        '<trajectory id="2">\n[{"role": "assistant", "content": "b"}]\n</trajectory>'
    )
    assert one.count("<trajectory") == 1
    assert '"content": "Say\\nit."}, {"role": "assistant", "content": "a"}' in one
    assert "<context>" not in one


def test_a_failed_judge_drops_its_group(rivals: ModuleType) -> None:
    with judging(rivals, replies(0.0, 1.0), replies(0.5), "no JSON", replies(0.5, 0.5)) as (judge, _):
        advantages, said = rivals.judged(rivals.Ruler(judge=judge), [PROMPT] * 4, list("abcdefgh"))
        assert judge.calls == 4
    assert [round(a, 4) for a in advantages] == [-1.0, 1.0, 0, 0, 0, 0, 0, 0]
    assert said == {
        "reward": 0.5,
        "dropped": 2,
        "why": "JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
    }


def test_a_judge_of_single_answers_is_asked_for_each(rivals: ModuleType) -> None:
    with judging(rivals, replies(0.25), "no JSON", replies(1)) as (judge, _):
        alone = rivals.Alone(judge=judge)
        assert alone(PROMPT, ["a", "b", "c"]) == [0.25, None, 1.0]
        assert alone.calls == 3


def test_the_loss(rivals: ModuleType) -> None:
    """Ratios 1, 1.5 (clipped to 1.2 where that is less), 0.5; the second answer has one token."""
    new = torch.tensor([[0.0, math.log(1.5)], [math.log(0.5), 9.0]], requires_grad=True)
    loss = rivals.clipped_loss(
        new, torch.zeros(2, 2), torch.tensor([2.0, -1.0]), torch.tensor([[1, 1], [1, 0]])
    )
    assert loss.item() == pytest.approx(-((2 * 1 + 2 * 1.2) / 2 + -0.8) / 2)
    loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == [[pytest.approx(-0.5), 0.0], [0.0, 0.0]]


def test_z_scores(rivals: ModuleType) -> None:
    assert rivals.z_scores([0.5, 0.5]) == [0.0, 0.0]
    assert rivals.z_scores([0, 0, 0, 1]) == pytest.approx([-(3**-0.5)] * 3 + [3**0.5], rel=1e-4)


def test_a_whole_ruler_loop(rivals: ModuleType) -> None:
    class Likes:
        """Pays a member for its place; the first time nobody is there."""

        calls = 0

        def __call__(self, prompt: Any, answers: list[str]) -> list[float | None]:
            self.calls += 1
            if self.calls == 1:
                raise OSError("nobody there")
            return [float(n) for n in range(len(answers))]

    settings = load_task(None, recipe="dots", overrides=SMALL)
    entered: list[int] = []

    @contextmanager
    def around(model: Any) -> Iterator[None]:
        entered.append(sum(p.requires_grad for p in model.parameters()))
        yield

    found = rivals.ruler_loop(settings, Likes(), every=1, hooks=rivals.Hooks(sampling=around))
    assert (found.calls, found.groups, found.dropped) == (4, 4, 1)
    assert [(p.step, p.groups, p.calls) for p in found.curve] == [(1, 2, 2), (2, 4, 4)]
    assert [line["dropped"] for line in found.log] == [1, 0]
    assert found.log[0]["why"] == "OSError: nobody there"
    assert found.log[0]["reward"] == 0.5
    assert len(entered) == 2
    assert entered[0] > 0


def test_the_rows_of_the_ruler_loop(rivals: ModuleType) -> None:
    """The sampler's log-probs are those of a forward pass, up to the first end token and with it."""
    import transformers

    settings = load_task(None, recipe="dots", overrides=[*SMALL, "rollout.max_tokens=12"])
    folder = FOLDER.parent / "src" / "refine_rl" / "assets" / "tiny"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    prompts = [prompt("p1", "Count the dots: k . m . . p r"), prompt("p2", "Hello")]
    rows = rivals.sampled(model, tokenizer, prompts, settings)
    ended = 0
    for row in range(4):
        asked = rows["prompt_ids"][row][rows["prompt_mask"][row].bool()]
        answer = rows["completion_ids"][row]
        n = int(rows["completion_mask"][row].sum())
        assert tokenizer.eos_token_id not in answer[: n - 1]
        ended += n < len(answer)
        with torch.no_grad():
            logits = model(torch.cat([asked, answer[:n]])[None]).logits[0, len(asked) - 1 : -1]
        plain = logits.log_softmax(-1).gather(1, answer[:n, None]).squeeze(1)
        assert torch.allclose(rows["logprobs"][row, :n], plain, atol=2e-4)
    assert ended


def test_the_table_of_the_race() -> None:
    race = load("against_trl_task")

    def run(*points: tuple[int, float, float]) -> dict[str, Any]:
        curve = [
            {"step": g // 8, "groups": g, "processor": s, "seconds": s + 1, "reward": r} for g, s, r in points
        ]
        return {"curve": curve, "peak_mb": 1000.0}

    found = {
        "plain": [run((16, 4.0, 0.8), (32, 8.0, 0.95)), run((16, 4.0, 0.7), (32, 9.0, 0.85))],
        "trl": [run((16, 8.0, 0.7), (32, 20.0, 0.9))] * 3,
    }
    plain, trl = (line.split(" | ") for line in race.table(found).splitlines()[2:])
    assert plain[2:7] == ["24", "8", "6", "4, 9", "36% / 32%"]
    assert plain[7:12] == ["inf", "inf", "inf", "8, -", "inf% / inf%"]
    assert trl[7:12] == ["32", "21", "20", "20, 20, 20", "100% / 100%"]
    del sys.modules["against_trl_task"]


@pytest.mark.slow
def test_trl_with_a_judge(rivals: ModuleType) -> None:
    pytest.importorskip("trl")

    class Likes:
        calls = 0

        def __call__(self, prompt: Any, answers: list[str]) -> list[float | None]:
            self.calls += len(answers)
            return [None] * len(answers) if self.calls <= 2 else [float(n) for n in range(len(answers))]

    settings = load_task(None, recipe="dots", overrides=SMALL)
    found = rivals.trl_with_judge(settings, Likes(), every=2, micro_batch=2)
    assert (found.calls, found.groups, found.dropped) == (8, 4, 1)
    assert [(p.step, p.calls) for p in found.curve] == [(2, 8)]
    assert found.log[1]["reward"] == 0.5
