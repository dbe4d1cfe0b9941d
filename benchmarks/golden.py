"""Proves that a rebuild of the code changes no bit of any result: golden runs, recorded and compared.

    python benchmarks/golden.py record DIR            # makes every golden run, in DIR/NAME
    python benchmarks/golden.py compare DIR_A DIR_B   # file by file; exit code 1 where one differs
    python benchmarks/golden.py resume DIR_A DIR_B    # finishes DIR_A's interrupted runs in DIR_B

All use the `refine_rl` that PYTHONPATH names, through its command line alone, so that the code may move as it
likes: record with the old code, then with the new, and compare; resume with the new what the old left.
The runs are small (the bundled model, a few steps; two at a time) and go through every room: rewards by
functions, rules, judges and a quiz, prompts from a file and from a writer (LLMs are tests/llm_server.py),
losses, advantages, sampling ahead, early exits, resampling, a pool. NAME-broken is a run as SIGINT or SIGKILL
left it in the middle of a step, NAME-resumed a copy of it that went on; it has to become its unbroken twin.
`--only NAME,...` takes some. What is there is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from llm_brain import brain, judged
from llm_server import LlmServer

# -- the runs ------------------------------------------------------------------------------------

SMALL = (
    "model.name=tiny", "model.dtype=float32", "model.device=cpu",  # "auto" is what a stopwatch says
    "prompts.train=16", "prompts.validation=4", "prompts.held_out=6", "evaluate.samples=2",
    "evaluate.bootstrap=200", "rollout.group_size=5", "rollout.max_tokens=20", "grpo.steps=5",
    "grpo.prompts_per_step=4", "grpo.validate_every=2", "grpo.checkpoint_every=2", "grpo.all_cut_patience=99",
    "grpo.keep_checkpoints=9", "grpo.zero_variance_patience=99",
)  # fmt: skip
RULES = (
    "reward.functions=[]", "reward.sanity=[]", "reward.combine=sum",
    'reward.rules=[{rule = "chars", max = 40}, {rule = "words", min = 6, max = 9, weight = 0.5}]',
)  # fmt: skip
RARE = ("grpo.validate_every=5", "grpo.checkpoint_every=5")  # no barrier where a run is broken
ASKED = (
    *RULES[:3], 'reward.rules=[{rule = "words", min = 3, max = 12}]',
    "reward.judges=['scripted/judge']", "judge.gate=['words']",
)  # fmt: skip
GRADED = "reward.steps={split = ' ', rules = [{rule = 'chars', max = 1}]}"


DOTS = {"dots", "resample", "pool", "curriculum", "steps"}  # of this recipe; the others of the recipe style
RUNS: Mapping[str, tuple[str, ...]] = {  # settings over SMALL
    "style": (),
    "dots": ("grpo.warmup_steps=2",),
    "judged": (
        *ASKED, "prompts.source=writer", "writer.model=scripted/writer", "prompts.held_out=5",
        "judge.repeats=2", "judge.shrink=true",
    ),
    "absolute": (
        *ASKED, "judge.kind=absolute", "evaluate.judge=scripted/other", "rollout.ahead=0", "grpo.flat=sign",
        "grpo.solved=0.6",
    ),
    "quiz": (*RULES, "reward.quiz={writer = 'scripted/writer', questions = 4, max_copied = 1.0}", *RARE),
    "exits": (*RULES, "reward.success=0.9", "rollout.early_exit={ends = ' the', answer_tokens = 6}"),
    "updates": (
        *RULES, "grpo.updates_per_step=2", "grpo.importance_cap=1.5", "grpo.kl=0.1", "grpo.kl_target=0.001",
        "grpo.tokens_per_micro_batch=1024", "rollout.temperature=0.9", "rollout.top_p=0.95",
        "rollout.top_k=40",
    ),
    "full": (
        *RULES, "model.adapter=none", "grpo.learning_rate=3e-4", "grpo.kl=0.05", "grpo.kl_in=reward",
        "grpo.kl_estimator=k1", "grpo.loss=dapo", "grpo.advantage=rloo", "grpo.schedule=cosine",
        "reward.overlong={limit = 16, buffer = 8}",
    ),
    "ahead": (*RULES, *RARE, "rollout.ahead=1"),
    "resample": ("grpo.resample=4", "grpo.flat=drop", *RARE),
    "pool": ("prompts.pool=informative", "prompts.probe=2", "prompts.train=12", "grpo.steps=6"),
    "curriculum": ("prompts.pool=curriculum", "prompts.train=12", "grpo.steps=6", "rollout.ahead=1", *RARE),
    "gdpo": (*RULES, "grpo.advantage=gdpo", "model.dropout=0.1", "grpo.loss=dr_grpo"),
    "steps": ("grpo.flat=steps", "grpo.solved=1.0", GRADED),
    "bfloat16": ("model.dtype=bfloat16", "grpo.steps=4"),
}  # fmt: skip
THREADS = {"updates": 2}  # and with it two lanes of micro-batches
BROKEN: Mapping[str, tuple[str, signal.Signals]] = {  # the twin, and what stops it in its third step
    "style-int": ("style", signal.SIGINT), "style-kill": ("style", signal.SIGKILL),
    "ahead-int": ("ahead", signal.SIGINT), "ahead-kill": ("ahead", signal.SIGKILL),
    "pool-int": ("pool", signal.SIGINT), "curriculum-kill": ("curriculum", signal.SIGKILL),
    "resample-kill": ("resample", signal.SIGKILL),
    "updates-int": ("updates", signal.SIGINT), "judged-kill": ("judged", signal.SIGKILL),
}  # fmt: skip
AGAIN: Mapping[str, tuple[str, ...]] = {  # of a finished run: the run, the command, its options
    "style-eval": ("style", "eval"), "ahead-replay": ("ahead", "replay", "--step", "3"),
    "exits-replay": ("exits", "replay", "--step", "3"),
    "resample-replay": ("resample", "replay", "--step", "2"),
}  # fmt: skip

# -- the LLMs ------------------------------------------------------------------------------------


def answers(body: dict[str, Any]) -> str:
    """The LLMs of all runs: a function of the request alone, in which no two looks agree altogether."""
    asked = "".join(m["content"] for m in body["messages"])
    chance = 0.8 + 0.2 * crc32(f"{body['model']} {asked}".encode()) / 2**32
    if (found := _between(asked, "answer")) is not None:
        score = json.loads(judged(f'<trajectory id="a">{found}</trajectory>'))["scores"][0]["score"]
        return json.dumps({"explanation": f"{score:.2f}", "score": round(1 + 9 * chance * score, 1)})
    if (found := _between(asked, "questions")) is not None:
        text, quiz = _between(asked, "text") or "", json.loads(found)
        said = {q["id"]: next((k for k, o in q["options"].items() if o in text), "don't know") for q in quiz}
        return json.dumps({"answers": [{"id": name, "answer": letter} for name, letter in said.items()]})
    if (found := _between(asked, "source")) is not None:
        words, wrong = sorted(set(re.findall(r"\w{3,}", found)))[:4], ["Xanten", "Ypern", "Zeist"]
        made = [{"question": f"Which is word {n}?", "right": w, "wrong": wrong} for n, w in enumerate(words)]
        return json.dumps({"questions": made})
    reply = json.loads(brain(body))
    for n, score in enumerate(reply.get("scores", ())):
        score["score"] = round(score["score"] * (chance if n % 2 else 1.8 - chance), 4)
    return json.dumps(reply)


def _between(text: str, tag: str) -> str | None:
    found = re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", text, re.S)
    return found[-1] if found else None


# -- recording -----------------------------------------------------------------------------------


STEADY = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
PLACE = "{{base_url = '{}', key_env = '', cache = false, prices = {{'*' = {{input = 0.5, output = 2.0}}}}}}"


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Makes runs in `root` with the code on PYTHONPATH and LLMs at `url`."""

    root: Path
    url: str

    def refine(self, run: str, *words: str) -> dict[str, Any]:
        """A command on a run, for subprocess; with where the LLMs are, if that asks any."""
        place = ("--set", f"endpoints.scripted={PLACE.format(self.url)}")
        asks = words[0] == "train" and any("scripted/" in one for one in RUNS[run])
        env = os.environ | STEADY | {"OMP_NUM_THREADS": str(THREADS.get(run, 1))}
        return {"args": [sys.executable, "-m", "refine_rl", *words, *(place if asks else ())], "env": env}

    def train(self, run: str, folder: Path) -> dict[str, Any]:
        sets = [word for one in (*SMALL, *RUNS[run]) for word in ("--set", one)]
        recipe = "dots" if run in DOTS else "style"
        return self.refine(run, "train", "--recipe", recipe, "--run", str(folder), *sets)

    def whole(self, name: str, folder: Path) -> None:
        called(self.train(name, folder))

    def broken(self, name: str, folder: Path) -> None:
        run, stop = BROKEN[name]
        groups, command = folder / "groups.jsonl", self.train(run, folder)
        for _ in range(5):  # a machine that is busy elsewhere may let it come to its end
            shutil.rmtree(folder, ignore_errors=True)
            with subprocess.Popen(**command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
                while child.poll() is None:
                    if groups.is_file() and b'"step": 3,' in groups.read_bytes():
                        child.send_signal(stop)
                        break
                    time.sleep(0.001)
            if child.returncode and groups.is_file() and not (folder / "comparison.json").is_file():
                return
        raise RuntimeError(f"{name} was not stopped in its third step: {command['args']}")

    def resumed(self, source: Path, name: str, folder: Path) -> None:
        """What became of a broken run in `source`, with its report rendered anew."""
        run = BROKEN[name][0]
        shutil.copytree(source / f"{name}-broken", folder)
        called(self.refine(run, "train", "--resume", str(folder)))
        (folder / "report.html").unlink()
        called(self.refine(run, "report", str(folder)))

    def again(self, name: str, folder: Path) -> None:
        run, command, *options = AGAIN[name]
        shutil.copytree(self.root / run, folder)
        said = called(self.refine(run, command, str(folder), *options))
        (folder / f"{command}.txt").write_text(said, encoding="utf-8")

    def make(self, name: str, fill: Callable[[Path], None]) -> None:
        """`fill` makes a folder aside, which then gets its name."""
        if (self.root / name).exists():
            return
        began, aside = time.perf_counter(), self.root / f".making-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        fill(aside)
        aside.rename(self.root / name)
        print(f"{name:<24} {time.perf_counter() - began:5.1f} s", flush=True)

    def make_all(self, fills: Mapping[str, Callable[[Path], None]]) -> None:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self.make, name, fill) for name, fill in fills.items()]:
                done.result()


def called(command: Mapping[str, Any]) -> str:
    """What a command says on standard output; raises RuntimeError where it fails."""
    done = subprocess.run(**command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command['args']}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return done.stdout


@contextlib.contextmanager
def recorder(root: Path) -> Iterator[Recorder]:
    root.mkdir(parents=True, exist_ok=True)
    server = LlmServer(brain=answers)
    try:
        yield Recorder(root=root.resolve(), url=server.base_url)
    finally:
        server.stop()


def record(root: Path, wanted: Callable[[str], bool]) -> bool:
    stopped = list(filter(wanted, BROKEN))
    with recorder(root) as r:
        broken = {f"{n}-broken": partial(r.broken, n) for n in stopped}
        r.make_all({n: partial(r.whole, n) for n in filter(wanted, RUNS)} | broken)
        resumed = {f"{n}-resumed": partial(r.resumed, r.root, n) for n in stopped}
        r.make_all(resumed | {n: partial(r.again, n) for n in filter(wanted, AGAIN)})
    return True


def resume(old: Path, root: Path, wanted: Callable[[str], bool]) -> bool:
    """Whether every broken run of `old` becomes its twin with the code on PYTHONPATH."""
    names = {n: f"{n}-taken-up" for n in filter(wanted, BROKEN)}
    for taken in names.values():
        shutil.rmtree(root / taken, ignore_errors=True)
    with recorder(root) as r:
        r.make_all({taken: partial(r.resumed, old.resolve(), n) for n, taken in names.items()})
    return min([told(t, old / BROKEN[n][0], root / t, resumed=True) for n, t in names.items()], default=True)


# -- comparing -----------------------------------------------------------------------------------
CLOCKS = {"seconds", "tokens_per_second", "time"}
COURSE = {"events.jsonl", "times.jsonl", "llm_calls.jsonl", "llm_replies.jsonl"}  # how a run came to its end


def content(run: Path) -> dict[str, list[str]]:
    """What a rebuild must not change of a folder: each file's lines, without clocks and places."""
    folder = rf"{re.escape(str(run.resolve().parent))}/(\.making-)?{re.escape(run.name)}"
    places = re.compile(rf"{folder}|http://127\.0\.0\.1:\d+|[^\"]+(?=/refine_rl/assets/tiny)")
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    return {str(f.relative_to(run)): [places.sub("PLACE", line) for line in _lines(f)] for f in files}


def _lines(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        return tensors(path)
    if path.name in ("report.html", ".lock"):  # a page has clocks in its plots: only that it is there
        return []
    text = path.read_text(encoding="utf-8")
    if path.name == "config.toml":
        found = tomllib.loads(text)
        del found["versions"], found["source"]["folder"], found["source"]["created"]
        del found["source"]["reward_files"]  # a recipe's rules may import from another place
        return json.dumps(found, indent=0).splitlines()
    if path.name == "adapter_config.json":  # peft writes a set, in an order that every process draws anew
        return sorted(line.strip().rstrip(",") for line in text.splitlines())
    if path.suffix != ".jsonl" and path.name != "position.json":
        return text.splitlines()
    # With sampling ahead a call is under way while a step ends, and counts in this step's cost or the next.
    # Which of several calls at once comes first, and so their order and numbers, is chance too.
    calls = path.name.startswith("llm_")
    without = CLOCKS | ({"id"} if calls else {"cost_usd"} if path.name == "metrics.jsonl" else set())
    lines = [_timeless(line, without) for line in text.removesuffix("\n").split("\n")]
    if path.name == "times.jsonl":  # how often the report was made on the way is the clock's affair
        lines = [line for line in lines if '"stage": "report"' not in line]
    return sorted(lines) if calls or path.name == "quiz.jsonl" else lines


def _timeless(line: str, without: set[str]) -> str:
    try:
        return json.dumps({k: v for k, v in json.loads(line).items() if k not in without})
    except ValueError:  # a damaged line stands for itself
        return line


def tensors(path: Path) -> list[str]:
    """A line a tensor of a safetensors file: name, form and the hash of its bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = {name: t for name, t in json.loads(data[8:start]).items() if name != "__metadata__"}
    return [
        f"{name} {t['dtype']} {t['shape']} "
        + hashlib.sha256(data[start + t["data_offsets"][0] : start + t["data_offsets"][1]]).hexdigest()[:16]
        for name, t in sorted(header.items())
    ]


def told(name: str, one: Path, other: Path, *, resumed: bool = False) -> bool:
    """Whether `other` is `one`; says so. A resumed run may have more checkpoints and another course."""
    a, b = content(one), content(other)
    wrong = [f"    {folder}: there is no such run" for folder, files in ((one, a), (other, b)) if not files]
    if resumed:
        b = {file: lines for file, lines in b.items() if file in a or not file.startswith("checkpoints/")}
        a, b = ({file: c[file] for file in c if file not in COURSE} for c in (a, b))
    wrong += [f"    {file}: is in one alone" for file in sorted(a.keys() ^ b.keys()) if a and b]
    wrong += [f"    {f}{_first(a[f], b[f])}" for f in sorted(a.keys() & b.keys()) if a[f] != b[f]]
    print(f"{name:<24} " + ("same" if not wrong else "DIFFERENT\n" + "\n".join(wrong)), flush=True)
    return not wrong


def _first(a: list[str], b: list[str]) -> str:
    """The first line that differs, from shortly before the place where it does."""
    n = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    x, y = (side[n] if n < len(side) else "(no such line)" for side in (a, b))
    alike = next((i for i, (c, d) in enumerate(zip(x, y, strict=False)) if c != d), min(len(x), len(y)))
    at = max(0, alike - 30)
    return f":{n + 1}: {len(a)} and {len(b)} lines\n        {x[at : at + 100]}\n        {y[at : at + 100]}"


def compare(a: Path, b: Path, wanted: Callable[[str], bool]) -> bool:
    found = [told(name, a / name, b / name) for name in filter(wanted, (*RUNS, *AGAIN))]
    for name in filter(wanted, BROKEN):  # the moment of a kill varies: what came of it does not
        twin = a / BROKEN[name][0]
        found += [told(f"{name} {s.name}", twin, s / f"{name}-resumed", resumed=True) for s in (a, b)]
    return all(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("what", choices=("record", "compare", "resume"))
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="names, with commas between them")
    a = parser.parse_args()
    only = set(filter(None, a.only.split(",")))
    if unknown := only - RUNS.keys() - BROKEN.keys() - AGAIN.keys():
        parser.error(f"no such run: {', '.join(sorted(unknown))}")
    if len(a.folders) != (1 if a.what == "record" else 2):
        parser.error(f"{a.what}: another number of folders")
    does = {"record": record, "compare": compare, "resume": resume}[a.what]
    sys.exit(not does(*a.folders, lambda name: not only or name in only))


if __name__ == "__main__":
    main()
