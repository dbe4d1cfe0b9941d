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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from llm_brain import brain, judged
from llm_server import LlmServer

Content = dict[str, list[str]]  # a file's name -> its lines, without clocks and places

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


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A run: a recipe with settings over it; `threads` of the processor; whether it asks LLMs."""

    recipe: str = "style"
    sets: tuple[str, ...] = ()
    threads: int = 1

    @property
    def asks(self) -> bool:
        return any("scripted/" in one for one in self.sets)


RUNS: Mapping[str, Golden] = {
    "style": Golden(),
    "dots": Golden(recipe="dots", sets=("grpo.warmup_steps=2",)),
    "judged": Golden(sets=(
        *ASKED, "prompts.source=writer", "writer.model=scripted/writer", "prompts.held_out=5",
        "judge.repeats=2", "judge.shrink=true",
    )),
    "absolute": Golden(sets=(
        *ASKED, "judge.kind=absolute", "evaluate.judge=scripted/other", "rollout.ahead=0", "grpo.flat=sign",
        "grpo.solved=0.6",
    )),
    "quiz": Golden(sets=(
        *RULES, "reward.quiz={writer = 'scripted/writer', questions = 4, max_copied = 1.0}", *RARE,
    )),
    "exits": Golden(sets=(
        *RULES, "reward.success=0.9", "rollout.early_exit={ends = ' the', answer_tokens = 6}",
    )),
    "updates": Golden(threads=2, sets=(
        *RULES, "grpo.updates_per_step=2", "grpo.importance_cap=1.5", "grpo.kl=0.1", "grpo.kl_target=0.001",
        "grpo.tokens_per_micro_batch=1024",
        "rollout.temperature=0.9", "rollout.top_p=0.95", "rollout.top_k=40",
    )),
    "full": Golden(sets=(
        *RULES, "model.adapter=none", "grpo.learning_rate=3e-4", "grpo.kl=0.05", "grpo.kl_in=reward",
        "grpo.kl_estimator=k1", "grpo.loss=dapo", "grpo.advantage=rloo", "grpo.schedule=cosine",
        "reward.overlong={limit = 16, buffer = 8}",
    )),
    "ahead": Golden(sets=(*RULES, *RARE, "rollout.ahead=1")),
    "resample": Golden(recipe="dots", sets=("grpo.resample=4", "grpo.flat=drop", *RARE)),
    "pool": Golden(recipe="dots", sets=(
        "prompts.pool=informative", "prompts.probe=2", "prompts.train=12", "grpo.steps=6",
    )),
    "gdpo": Golden(sets=(*RULES, "grpo.advantage=gdpo", "model.dropout=0.1", "grpo.loss=dr_grpo")),
    "steps": Golden(recipe="dots", sets=("grpo.flat=steps", "grpo.solved=1.0", GRADED)),
    "bfloat16": Golden(sets=("model.dtype=bfloat16", "grpo.steps=4")),
}  # fmt: skip
BROKEN: Mapping[str, tuple[str, signal.Signals]] = {  # the twin, and what stops it in its third step
    "style-int": ("style", signal.SIGINT),
    "style-kill": ("style", signal.SIGKILL),
    "ahead-int": ("ahead", signal.SIGINT),
    "ahead-kill": ("ahead", signal.SIGKILL),
    "judged-kill": ("judged", signal.SIGKILL),
    "updates-int": ("updates", signal.SIGINT),
    "resample-kill": ("resample", signal.SIGKILL),
    "pool-int": ("pool", signal.SIGINT),
}
AGAIN: Mapping[str, tuple[str, tuple[str, ...]]] = {  # of a finished run: the command, its options
    "style-eval": ("style", ("eval",)),
    "ahead-replay": ("ahead", ("replay", "--step", "3")),
    "exits-replay": ("exits", ("replay", "--step", "3")),
    "resample-replay": ("resample", ("replay", "--step", "2")),
}

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
        words = sorted(set(re.findall(r"\w{3,}", found)))[:4]
        wrong = ["Xanten", "Ypern", "Zeist"]
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


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Makes runs in `root` with the code on PYTHONPATH and LLMs at `url`."""

    root: Path
    url: str

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "refine_rl", *words]

    def start(self, words: Sequence[str], threads: int, out: Path) -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "120",
        }
        with out.open("wb") as said, out.with_suffix(".errors").open("wb") as errors:
            return subprocess.Popen(self.command(*words), env=env, stdout=said, stderr=errors)

    def call(self, words: Sequence[str], threads: int = 1) -> str:
        """What a command says on standard output; raises RuntimeError where it fails."""
        out = self.root / f".said-{crc32(' '.join(words).encode()):08x}"
        child = self.start(words, threads, out)
        failed, said, errors = child.wait(), out.read_text(), out.with_suffix(".errors").read_text()
        if failed:
            raise RuntimeError(f"refine {' '.join(words)}\n{said[-1000:]}\n{errors[-3000:]}")
        out.unlink()
        out.with_suffix(".errors").unlink()
        return said

    def place(self, golden: Golden) -> list[str]:
        """Where the LLMs are, for a run that asks any."""
        table = f"{{base_url = '{self.url}', key_env = '', cache = false, prices = {PRICES}}}"
        return ["--set", f"endpoints.scripted={table}"] if golden.asks else []

    def begin(self, name: str, folder: Path) -> list[str]:
        golden = RUNS[name]
        sets = [word for one in (*SMALL, *golden.sets) for word in ("--set", one)]
        return ["train", "--recipe", golden.recipe, "--run", str(folder), *sets, *self.place(golden)]

    def go_on(self, name: str, folder: Path) -> None:
        """Finishes a broken run, and renders its report anew."""
        golden = RUNS[name]
        self.call(["train", "--resume", str(folder), *self.place(golden)], golden.threads)
        (folder / "report.html").unlink()
        self.call(["report", str(folder)])

    def whole(self, name: str) -> None:
        self.make(name, lambda folder: self.call(self.begin(name, folder), RUNS[name].threads))

    def broken(self, name: str) -> None:
        twin, stop = BROKEN[name]

        def broken(folder: Path) -> None:
            while True:
                shutil.rmtree(folder, ignore_errors=True)
                child = self.start(self.begin(twin, folder), RUNS[twin].threads, self.root / f".said-{name}")
                groups = folder / "groups.jsonl"
                while child.poll() is None:
                    if groups.is_file() and b'"step": 3,' in groups.read_bytes():
                        child.send_signal(stop)
                        break
                    time.sleep(0.001)
                if child.wait() and groups.is_file() and not (folder / "comparison.json").is_file():
                    return  # a machine that was busy elsewhere may have let it come to its end

        self.make(f"{name}-broken", broken)

    def resumed(self, name: str, source: Path, after: str) -> None:
        def resumed(folder: Path) -> None:
            shutil.copytree(source / f"{name}-broken", folder)
            self.go_on(BROKEN[name][0], folder)

        self.make(f"{name}-{after}", resumed)

    def again(self, name: str) -> None:
        run, (command, *options) = AGAIN[name]

        def again(folder: Path) -> None:
            shutil.copytree(self.root / run, folder)
            said = self.call([command, str(folder), *options])
            (folder / f"{command}.txt").write_text(said, encoding="utf-8")

        self.make(name, again)

    def make(self, name: str, fill: Callable[[Path], Any]) -> None:
        """`fill` makes a folder aside, which then gets its name."""
        if (self.root / name).exists():
            return
        began, aside = time.perf_counter(), self.root / f".making-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        fill(aside)
        aside.rename(self.root / name)
        print(f"{name:<24} {time.perf_counter() - began:5.1f} s", flush=True)


PRICES = "{'*' = {input = 0.5, output = 2.0}}"


def work(root: Path, jobs: Callable[[Recorder], Sequence[Sequence[Callable[[], None]]]]) -> None:
    """Does the rounds of jobs, two at a time, with a server of LLMs."""
    root.mkdir(parents=True, exist_ok=True)
    server = LlmServer(brain=answers)
    try:
        with ThreadPoolExecutor(2) as pool:
            for round_ in jobs(Recorder(root=root.resolve(), url=server.base_url)):
                for done in [pool.submit(job) for job in round_]:
                    done.result()
    finally:
        server.stop()
    for left in root.glob(".said-*"):
        left.unlink()


def record(root: Path, wanted: Callable[[str], bool]) -> None:
    def jobs(at: Recorder) -> list[list[Callable[[], None]]]:
        runs = [lambda n=n: at.whole(n) for n in RUNS if wanted(n)]
        broken = [lambda n=n: at.broken(n) for n in BROKEN if wanted(n)]
        resumed = [lambda n=n: at.resumed(n, at.root, "resumed") for n in BROKEN if wanted(n)]
        again = [lambda n=n: at.again(n) for n in AGAIN if wanted(n)]
        return [[*runs, *broken], [*resumed, *again]]

    work(root, jobs)


def resume(old: Path, root: Path, wanted: Callable[[str], bool]) -> bool:
    """Whether every broken run of `old` becomes its twin with the code on PYTHONPATH."""
    names = [n for n in BROKEN if wanted(n)]
    for name in names:
        shutil.rmtree(root / f"{name}-taken-up", ignore_errors=True)
    work(root, lambda at: [[lambda n=n: at.resumed(n, old.resolve(), "taken-up") for n in names]])
    found = [
        told(f"{n}-taken-up", content(old / BROKEN[n][0]), content(root / f"{n}-taken-up"), resumed=True)
        for n in names
    ]
    return all(found)


# -- comparing -----------------------------------------------------------------------------------

CLOCKS = {"seconds", "tokens_per_second", "time"}
COURSE = {"events.jsonl", "times.jsonl", "llm_calls.jsonl", "llm_replies.jsonl"}  # how a run came to its end


def content(run: Path) -> Content:
    """What a rebuild must not change of a folder."""
    return {
        str(path.relative_to(run)): [_placeless(line, run) for line in _lines(path)]
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


def _placeless(line: str, run: Path) -> str:
    place = re.compile(rf"{re.escape(str(run.resolve().parent))}/(\.making-)?{re.escape(run.name)}")
    return re.sub(r"http://127\.0\.0\.1:\d+", "http://SERVER", place.sub("RUN", line))


def _lines(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        return tensors(path)
    if path.name in ("report.html", ".lock"):  # a page has clocks in its plots: only that it is there
        return []
    text = path.read_text(encoding="utf-8")
    if path.name == "config.toml":
        found = tomllib.loads(text)
        del found["versions"], found["source"]["folder"], found["source"]["created"]
        found["source"].pop("reward_files")  # a recipe's rules may import from another place
        return json.dumps(found, indent=0).splitlines()
    if path.name == "position.json":
        return [_timeless(text)]
    if path.name == "adapter_config.json":  # peft writes a set, in an order that every process draws anew
        found = json.loads(text)
        found["target_modules"] = sorted(found["target_modules"])
        return json.dumps(found, indent=0).splitlines()
    if path.suffix != ".jsonl":
        return text.splitlines()
    # With sampling ahead a call is under way while a step ends, and counts in this step's cost or the next.
    # Which of several calls at once comes first, and so the calls' order and numbers, is chance too.
    calls = path.name.startswith("llm_")
    without = CLOCKS | ({"id"} if calls else {"cost_usd"} if path.name == "metrics.jsonl" else set())
    lines = [_timeless(line, without) for line in text.splitlines()]
    return sorted(lines) if calls else lines


def _timeless(line: str, without: set[str] = CLOCKS) -> str:
    return json.dumps({k: v for k, v in json.loads(line).items() if k not in without})


def tensors(path: Path) -> list[str]:
    """A line a tensor of a safetensors file: name, form and the hash of its bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return [
        f"{name} {t['dtype']} {t['shape']} "
        + hashlib.sha256(data[start + t["data_offsets"][0] : start + t["data_offsets"][1]]).hexdigest()[:16]
        for name, t in sorted(header.items())
    ]


def told(name: str, a: Content, b: Content, *, resumed: bool = False) -> bool:
    """Whether `b` is `a`; says so. A resumed run may have more checkpoints and another course."""
    if resumed:
        b = {file: lines for file, lines in b.items() if file in a or not file.startswith("checkpoints/")}
        a, b = ({file: c[file] for file in c if file not in COURSE} for c in (a, b))
    wrong = [f"    {file}: is in one alone" for file in sorted(a.keys() ^ b.keys())]
    wrong += [
        f"    {file}{_first(a[file], b[file])}" for file in sorted(a.keys() & b.keys()) if a[file] != b[file]
    ]
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
    found = [told(n, content(a / n), content(b / n)) for n in (*RUNS, *AGAIN) if wanted(n)]
    for name, (twin, _) in BROKEN.items():  # the moment of a kill varies: what came of it does not
        for side in (a, b) if wanted(name) else ():
            resumed = content(side / f"{name}-resumed")
            found.append(told(f"{name} in {side.name}", content(a / twin), resumed, resumed=True))
    return all(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
    with contextlib.suppress(BrokenPipeError):
        sys.exit(does(*a.folders, lambda name: not only or name in only) is False)


if __name__ == "__main__":
    main()
