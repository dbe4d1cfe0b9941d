"""The tuned model beside its rivals, as a table: on the recipe `style` (rules alone, offline) and on a task
that an LLM judges.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py [--steps 60] [--task style judged] [--set KEY=VALUE]

Each task is one whole `refine train` with `evaluate.rivals = ["prompt", "best_of_n", "sft"]`. On `style` the
search for a prompt is the plain one, as no LLM is named. In `judged` the judge and the writer are scripted,
on the loopback: the judge likes answers of about six words and nothing else, and says why; the writer, who
cannot read, hands out texts in turn. So this shows that the contest is whole and what it counts, not what a
writer that thinks would find. Base is the bundled model, which was never taught to heed a system prompt.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

from refine_rl.evaluate.rivals import label_of, sampled_tokens, shipping, to_make
from refine_rl.run.records import comparison_from
from refine_rl.types import Comparison, Estimate

TEXTS = (
    "Answer in six words.",
    "Be very brief: one short sentence.",
    "Say only what matters, in about six words.",
    "Never write more than one line.",
    "Short sentences. No greeting, no ending.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", nargs="+", choices=("style", "judged"), default=["style", "judged"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of refine train")
    arguments = parser.parse_args()
    for task in arguments.task:
        with tempfile.TemporaryDirectory() as folder:
            more = [f"grpo.steps={arguments.steps}", f"grpo.seed={arguments.seed}", *arguments.set]
            found = style(Path(folder), more) if task == "style" else judged(Path(folder), more)
        print(f"\n{task}\n")
        table(found)


def style(folder: Path, more: list[str]) -> Comparison:
    return train(["--recipe", "style"], folder, more)


def judged(folder: Path, more: list[str]) -> Comparison:
    """The prompts of `style`, judged by length."""
    with endpoint() as url:
        prices = '{"*" = {input = 1.0, output = 1.0}}'
        table = f'{{base_url = "{url}", key_env = "", cache = false, prices = {prices}}}'
        changes = [
            'task="Answer in about six words."',
            f"endpoints.loop={table}",
            'reward.judges=["loop/judge"]',
            "reward.functions=[]",
            "reward.sanity=[]",
            'reward.combine="sum"',
            'writer.model="loop/writer"',
            "judge.anchors=false",
            "evaluate.rival_calls=640",
            *more,
        ]
        return train(["--recipe", "style"], folder, changes)


def train(task: list[str], folder: Path, changes: list[str]) -> Comparison:
    """The comparison of one run."""
    changes = ['evaluate.rivals=["prompt", "best_of_n", "sft"]', *changes]
    command = [sys.executable, "-m", "refine_rl", "train", *task, "--json", "--run", str(folder / "run")]
    command += [part for change in changes for part in ("--set", change)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return comparison_from(json.loads((folder / "run" / "comparison.json").read_text(encoding="utf-8")))


@contextmanager
def endpoint() -> Iterator[str]:
    """The address of a judge and a writer."""
    asked = count()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            said = (
                verdicts(text)
                if "<trajectory id=" in text
                else f"```\n{TEXTS[next(asked) % len(TEXTS)]}\n```"
            )
            used = {"prompt_tokens": len(text) // 4, "completion_tokens": len(said) // 4}
            message = {"role": "assistant", "content": said}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            reply = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"]}
            data = json.dumps({**reply, "choices": choices, "usage": {**used, "total_tokens": 1}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def verdicts(text: str) -> str:
    """What the judge says of a group: six words are best; what is no answer is worth nothing."""
    scores = []
    for name, messages in re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S):
        words = json.loads(messages)[-1]["content"].split()
        good = bool(words) and not any(word.endswith(":") for word in words) and len(set(words)) > 3
        value = max(0.0, 1 - abs(len(words) - 6) / 10) if good else 0.0
        scores.append({"trajectory_id": name, "explanation": f"{len(words)} words", "score": round(value, 3)})
    return json.dumps({"scores": scores})


def table(c: Comparison) -> None:
    """As Markdown."""
    assert c.reward is not None
    heads = [
        "",
        "reward",
        "tuned less it",
        "over base",
        "to make",
        "answers scored",
        "LLM calls",
        "tokens an answer",
    ]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    rows: dict[str, Estimate] = {"base": c.reward.base, **c.rivals, "tuned": c.reward.tuned}
    for name, estimate in rows.items():
        other = c.rivals.get(name)
        less = c.reward.difference if name == "base" else other and other.tuned_minus
        over = c.reward.difference if name == "tuned" else other and other.over_base
        made = c.took if name == "tuned" else other
        cells = [label_of(name, other), show(estimate), show(less), show(over), to_make(name, c)]
        cells += [str(made.answers) if made else "0", str(other.calls) if other else ""]
        print("| " + " | ".join([*cells, f"{sampled_tokens(c, name) or 0:.1f}"]) + " |")
    print(f"\n{shipping(c)}")
    for name, other in c.rivals.items():
        print(f"- {label_of(name, other)}: {other.how}")
    for name, why in c.others_missing.items():
        print(f"- {name} is missing: {why}")


def show(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate.ci95
    return f"{estimate.mean:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
