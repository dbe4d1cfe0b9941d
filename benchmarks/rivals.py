"""The tuned model beside its rivals, as a table: on the recipe `style` (rules alone, offline), on a task that
an LLM judges, and on a model that heeds a system prompt.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py [--task style judged plain gepa] [--steps 60] ...

Each task is one whole `refine train` with `evaluate.rivals = ["prompt", "best_of_n", "sft"]`. On `style` the
search for a prompt is the plain one, as no LLM is named. In `judged` the judge and the writer are scripted,
on the loopback: the judge likes answers of about six words and nothing else, and says why; the writer, who
cannot read, hands out texts in turn. So this shows that the contest is whole and what it counts, not what a
writer that thinks would find. Base is the bundled model, which was never taught to heed a system prompt.

`plain` and `gepa` have it taught first (`refine sft`, --rows of them): with a system message that names a
style it rewrites the user's message in that style, without one it mostly says the message again. The task is
`Rewrite the message like a pirate, keeping its meaning.` with bare messages for prompts, scored by the rules
of `style`. So a prompt that says so is all that it takes. `plain` is the plain search, `gepa` the library,
with the scripted writer.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

from refine_rl.assets.make_tiny.rewriting import rewrite
from refine_rl.evaluate.rivals import label_of, sampled_tokens, shipping, to_make
from refine_rl.recipes import recipe_folder
from refine_rl.recipes.style.prompts import draw_message, split_of, styles
from refine_rl.run.records import comparison_from
from refine_rl.types import Comparison, Estimate

TEXTS = (
    "Answer in six words.",
    "Be very brief: one short sentence.",
    "Say only what matters, in about six words.",
    "Never write more than one line.",
    "Short sentences. No greeting, no ending.",
)
STYLES = (
    "Answer in a friendly tone.",
    "Rewrite the message as formal correspondence.",
    "Write with many exclamation marks.",
    "Rewrite the message in the voice of a pirate captain.",
    "Talk of the sea in every answer.",
)
SYSTEMS = (
    "Rewrite the message {how}, keeping its meaning.",
    "Rewrite the message {how}.",
    "Say everything {how}.",
    "You answer {how}.",
)
BARE = 0.3
"""Share of the rows without a system message."""
PLAIN = 0.7
"""Share of those whose answer is the message itself; the others are in any style: GRPO begins there."""
SETTINGS = """task = "Rewrite the message like a pirate, keeping its meaning."
[model]
name = "tiny"
adapter = "lora"
rank = 16
[prompts]
source = "file:messages.jsonl"
train = 240
validation = 24
held_out = 64
[reward]
functions = ["rules.py:style", {function = "rules.py:fidelity", weight = 2.0}, "rules.py:length",
  "rules.py:no_repetition"]
combine = "product"
[rollout]
group_size = 8
max_tokens = 48
[grpo]
prompts_per_step = 8
learning_rate = 2e-3
loss = "dapo"
validate_every = 20
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    every = ("style", "judged", "plain", "gepa")
    parser.add_argument("--task", nargs="+", choices=every, default=list(every))
    parser.add_argument(
        "--rows", type=int, default=3000, help="to teach the model that heeds, of plain and gepa"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of refine train")
    arguments = parser.parse_args()
    for task in arguments.task:
        with tempfile.TemporaryDirectory() as folder:
            more = [f"grpo.steps={arguments.steps}", f"grpo.seed={arguments.seed}", *arguments.set]
            if task in ("plain", "gepa"):
                found = heeding(Path(folder), more, rows=arguments.rows, writes=task == "gepa")
            else:
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


def heeding(folder: Path, more: list[str], *, rows: int, writes: bool) -> Comparison:
    """A model that was taught to heed a system message, and a style that nobody told it of."""
    rng = random.Random(0)
    pairs: list[dict[str, Any]] = []
    messages: dict[str, dict[str, Any]] = {}
    while len(pairs) < rows:
        text, style = draw_message(rng), rng.choice(tuple(styles()))
        if split_of(text.words) != "train":
            continue
        chat = [{"role": "user", "content": text.text}]
        answer = text.text if rng.random() < PLAIN else rewrite(rng, text.text, style)
        if rng.random() >= BARE:
            how = rng.choice(styles()[style]["how"])
            chat.insert(0, {"role": "system", "content": rng.choice(SYSTEMS).format(how=how)})
            answer = rewrite(rng, text.text, style)
        pairs.append({"prompt": chat, "answer": answer})
    while len(messages) < 340:
        text = draw_message(rng)
        messages[text.text] = {"prompt": text.text, "style": "pirate", "source": text.text}
    for name, lines in (("pairs", pairs), ("messages", list(messages.values()))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("rules.py", "styles.toml"):
        shutil.copy(recipe_folder("style") / name, folder / name)
    (folder / "task.toml").write_text(SETTINGS)
    taught = ["sft", str(folder / "task.toml"), "--run", str(folder / "taught")]
    sft = ("data=file:pairs.jsonl", "epochs=2", "learning_rate=2e-3", "batch_tokens=1024", "dropout=0.0")
    refine([*taught, *(part for one in sft for part in ("--set", f"sft.{one}"))])
    more = [f'model.start="{folder / "taught"}"', *more]
    if not writes:
        return train([str(folder / "task.toml")], folder, more)
    with endpoint(STYLES) as url:
        prices = '{"*" = {input = 1.0, output = 1.0}}'
        table = f'{{base_url = "{url}", key_env = "", cache = false, prices = {prices}}}'
        more = [f"endpoints.loop={table}", 'writer.model="loop/writer"', "evaluate.rival_calls=640", *more]
        return train([str(folder / "task.toml")], folder, more)


def refine(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "refine_rl", *arguments], stdout=subprocess.DEVNULL, check=True)


def train(task: list[str], folder: Path, changes: list[str]) -> Comparison:
    """The comparison of one run."""
    changes = ['evaluate.rivals=["prompt", "best_of_n", "sft"]', *changes]
    given = [part for change in changes for part in ("--set", change)]
    refine(["train", *task, "--json", "--run", str(folder / "run"), *given])
    return comparison_from(json.loads((folder / "run" / "comparison.json").read_text(encoding="utf-8")))


@contextmanager
def endpoint(texts: Sequence[str] = TEXTS) -> Iterator[str]:
    """The address of a judge, and of a writer that hands out these texts."""
    asked = count()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            said = (
                verdicts(text)
                if "<trajectory id=" in text
                else f"```\n{texts[next(asked) % len(texts)]}\n```"
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
