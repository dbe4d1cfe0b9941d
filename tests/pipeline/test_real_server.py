"""A real model server (`transformers serve`) with a tiny model as the judge: its judging is chance, the
protocol is the real one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forked import finish
from refine_rl.llm.scripted import Scripted
from refine_rl.rewards.judges.absolute import Absolute
from refine_rl.rewards.judges.looks import Case
from refine_rl.run import RunFolder
from refine_rl.types import Message

MakeModel = Callable[..., Path]


def request_of(answer: str) -> tuple[Message, ...]:
    """What a judge is asked about an answer, to the letter."""
    client = Scripted(['{"explanation": "x", "score": 5}'])
    judging = Absolute(task="Be short.", rubric="Short is good.", seed=0)
    case = Case(
        about="p1",
        context=({"role": "user", "content": "say something"},),
        answers=(({"role": "assistant", "content": answer},),),
    )
    asyncio.run(judging.look(client, case, look=0))
    return client.requests[0].messages


@pytest.fixture(scope="module")
def judge(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers every request in a judge's form, with a grade of chance."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("judge")
    shutil.copytree(
        make_model(
            "mistral",
            max_position_embeddings=8192,
            hidden_size=64,
            intermediate_size=128,
            sliding_window=48,
        ),
        folder,
        dirs_exist_ok=True,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    length = 130  # two layers with a window of 48 see no farther
    answers = [
        "the cat",
        "hello there dog",
        "a b c",
        "",
        "river? stone!",
        "say 7 1 xx",
        "cat cat cat",
        "qz\nqz",
    ]
    asked = [
        tokenizer.apply_chat_template(list(request_of(a)), add_generation_prompt=True, return_dict=False)[
            -length:
        ]
        for a in answers
    ]
    rows = []
    for grade in range(2, 10):
        reply = json.dumps({"explanation": "it is what it is", "score": grade}) + "<|end|>"
        rows.append(tokenizer(reply, add_special_tokens=False)["input_ids"])
    assert len({len(row) for row in rows}) == 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        for step in range(150):
            ids = torch.tensor([asked[i] + rows[(i + step) % len(rows)] for i in range(len(asked))])
            labels = ids.clone()
            labels[:, :length] = -100
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `transformers serve` with that model."""
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(judge)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait()


def refine(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return finish(*arguments, env={**os.environ, "REFINE_CACHE": str(cache)})


def test_a_run_with_a_real_server_as_its_judge(
    server: str, judge: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    words = ["cat", "dog", "tree", "house", "river", "stone"]
    lines = [json.dumps({"prompt": f"say something about the {a} and a {b}"}) for a in words for b in words]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    (tmp_path / "task.toml").write_text(f"""
        task = "Be short."
        model = {{name = "{make_model("llama")}", device = "cpu", dtype = "float32"}}
        prompts = {{source = "file:prompts.jsonl", validation = 2, held_out = 5}}
        rollout = {{group_size = 3, max_tokens = 8}}
        grpo = {{steps = 2, prompts_per_step = 2, all_cut_patience = 99, learning_rate = 0.01}}
        evaluate = {{samples = 1, bootstrap = 200}}
        [endpoints.served]
        base_url = "{server}"
        concurrency = 2
        [reward]
        judges = ["served/{judge}"]
        rubric = "Short is good."
        max_missing = 0.5
        [judge]
        kind = "absolute"
        temperature = 1.0
        max_tokens = 150
        anchors = false
    """)
    done = refine("train", tmp_path / "task.toml", "--run", tmp_path / "run", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    run = RunFolder.open(tmp_path / "run")
    members: list[dict[str, Any]] = [t for g in run.groups() for t in g["trajectories"]]
    assert len(members) == 12
    scored = [t for t in members if t["status"] == "scored"]
    assert len(scored) > 6
    assert {round(t["reward"] * 9 + 1, 6) for t in scored} <= set(range(1, 11))
    assert len({t["reward"] for t in scored}) > 2
    calls = run.calls()
    assert all(c["tokens_in"] > 100 for c in calls if c["outcome"] == "ok")
    assert all(c["cost_usd"] is None for c in calls if c["outcome"] == "ok")  # no price is known: not 0
    assert run.comparison() is not None


def test_scoring_with_a_real_server(server: str, judge: Path, tmp_path: Path) -> None:
    group = {
        "id": "one",
        "messages": [{"role": "user", "content": "say something"}],
        "completions": ["hello there", "the cat and the dog"],
    }
    (tmp_path / "groups.jsonl").write_text(json.dumps(group) + "\n")
    for model, code in ((str(judge), 0), ("another/model", 4)):
        out = tmp_path / f"{code}.jsonl"
        done = refine(
            *("score", tmp_path / "groups.jsonl", "--out", out, "--task", "Be short.", "--kind", "absolute"),
            *("--judge", f"local/{model}", "--base-url", server),
            cache=tmp_path / "cache",
        )
        assert done.returncode == code, done.stderr
        if code == 0:
            (line,) = out.read_text().splitlines()
            record = json.loads(line)
            assert record["id"] == "one"
            assert all(s["status"] == "scored" for s in record["scores"]), record
            assert record["calls"] >= 2
            assert record["cost_usd"] is None
