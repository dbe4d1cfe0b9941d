"""How much of a slow judge's time is hidden behind sampling and training.

    python benchmarks/judge.py [--delay 2] [--steps 12]

A local server plays a judge that answers every call after `--delay` seconds, to as many calls at once as
come. The bundled model is trained with it, and, for the time of sampling and training alone, with one
that answers at once. `bound` is max(sampling + training, judge at the given concurrency) of a step;
`ratio` is the median step against it, checkpoints' and validations' own steps included in `all steps`
only (after them nothing is sampled ahead).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

PER_STEP = 8
EVERY = 6  # steps between checkpoints

TASK = """
task = "Rewrite the message in the requested style."
[model]
name = "tiny"
[prompts]
source = "recipe:style"
train = 64
validation = 0
held_out = 5
[endpoints.local]
base_url = "{url}"
concurrency = {concurrency}
cache = false
[reward]
judges = ["local/judge"]
[judge]
anchors = false
[rollout]
group_size = {group_size}
max_tokens = 48
ahead = {ahead}
[grpo]
steps = {steps}
prompts_per_step = {per_step}
checkpoint_every = {every}
validate_every = 0
[evaluate]
samples = 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[8, 64])
    arguments = parser.parse_args()
    print(
        "| group size | concurrency | ahead | sampling + training | judge | bound | step | ratio "
        "| all steps |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for group_size in arguments.group_sizes:
        with judge(0.0) as url:
            work = median(
                m["seconds"]["sample"] + m["seconds"]["train"]
                for m in run(url, group_size, 8, 0, arguments.steps)
            )
        for concurrency, ahead in ((8, 1), (4, 1), (8, 0), (4, 0)):
            with judge(arguments.delay) as url:
                metrics = run(url, group_size, concurrency, ahead, arguments.steps)
            judged = math.ceil(PER_STEP / concurrency) * arguments.delay
            bound = max(work, judged)
            # The first step, and those right after a checkpoint, have nothing sampled ahead for them.
            steps = [m["seconds"]["total"] for m in metrics]
            flowing = [s for m, s in zip(metrics, steps, strict=True) if m["step"] % EVERY not in (1, 0)]
            cells = [group_size, concurrency, ahead, f"{work:.2f}", f"{judged:.1f}", f"{bound:.2f}"]
            cells += [f"{median(flowing):.2f}", f"{median(flowing) / bound:.2f}"]
            cells += [f"{sum(steps) / len(steps) / bound:.2f}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def run(url: str, group_size: int, concurrency: int, ahead: int, steps: int) -> list[dict[str, Any]]:
    """metrics.jsonl of a run in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.toml"
        task.write_text(
            TASK.format(
                url=url,
                concurrency=concurrency,
                group_size=group_size,
                ahead=ahead,
                steps=steps,
                per_step=PER_STEP,
                every=EVERY,
            )
        )
        command = [sys.executable, "-m", "refine_rl", "train", str(task), "--run", f"{folder}/run"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@contextmanager
def judge(delay: float) -> Iterator[str]:
    """A judge on this machine that gives longer answers more; its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = asyncio.run_coroutine_threadsafe(
        asyncio.start_server(lambda r, w: _answer(r, w, delay), "127.0.0.1", 0), loop
    )
    server = made.result()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: (\d+)", head, re.I)
            request = json.loads(await reader.readexactly(int(length[1]) if length else 0))
            await asyncio.sleep(delay)
            text = request["messages"][-1]["content"]
            members = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
            longest = max(len(body) for _, body in members)
            scores = [
                {"trajectory_id": name, "explanation": "by length", "score": round(len(body) / longest, 3)}
                for name, body in members
            ]
            message = {"role": "assistant", "content": json.dumps({"scores": scores})}
            body = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": request["model"],
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
                }
            ).encode()
            head_out = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head_out.encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    main()
