"""Sampling of games of several turns: keys and values kept between turns, against every turn anew.

    python benchmarks/turns.py [--prompt-tokens 64,512] [--turns 8] [--said 16] [--told 16] [--repeats 5] ...

A model of random weights, as `refine bench` makes it, says about `--said` tokens a turn: one word in so many
ends an answer, so that lengths differ as they do in a game. The world answers with `--told` tokens. Who has
not ended after four times as many is over. Both ways sample the same games to the token, which is checked, in
turn in one process (A B A B ...); figures are medians of its processor's seconds, on a GPU of the clock's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from refine_rl.bench.random_model import Shape, write_random_model
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.randomness import generator
from refine_rl.settings import ModelSettings
from refine_rl.types import Message, Prompt, Segment, Trajectory

ASKED: tuple[Message, ...] = ({"role": "user", "content": "1"},)
"""Nobody reads it: prompts are made of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Game:
    """Groups of members that play some turns."""

    policy: Policy
    prompt_tokens: int
    prompts: int
    members: int
    turns: int
    said: int
    told: int

    def play(self, *, keep: bool) -> list[tuple[int, ...]]:
        """The tokens of all trajectories, with a memory or without."""
        memory = self.policy.memory() if keep else None
        how = Sampling(max_tokens=4 * self.said)
        groups = [
            begun(self._some(self.prompt_tokens, p.id), p, self.members)
            for p in (Prompt(id=f"p{n}", split="train", messages=ASKED) for n in range(self.prompts))
        ]
        found: list[tuple[int, ...]] = []
        for turn in range(self.turns):
            purpose = Purpose(seed=1, step=1, name=f"turn {turn}")
            spoken = dict(self.policy.speak(groups, sampling=how, purpose=purpose, memory=memory))
            ends = turn + 1 == self.turns
            over = [t for group in spoken.values() for t in group if ends or t.stop_reason == "length"]
            found += [tuple(i for s in t.segments for i in s.token_ids) for t in over]
            groups = [
                tuple(
                    replace(b, segments=(*t.segments, self._told(t, turn)))
                    for b, t in zip(group, spoken[place], strict=True)
                    if t.stop_reason == "stop"
                )
                for place, group in enumerate(groups)
            ]
        return sorted(found)

    def _told(self, trajectory: Trajectory, turn: int) -> Segment:
        some = self._some(self.told, trajectory.prompt_id, trajectory.member, turn)
        return Segment(token_ids=some, trainable=False)

    def _some(self, tokens: int, *key: str | int) -> tuple[int, ...]:
        return tuple(generator(0, *key).integers(1, self.policy.vocabulary, size=tokens).tolist())


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt-tokens", default="64,512")
    for name, usual in (("prompts", 8), ("members", 8), ("turns", 8), ("said", 16), ("told", 16)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    for name, usual in (("vocabulary", 2048), ("hidden", 256), ("layers", 4), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    a = parser.parse_args(words)
    print(
        "| prompt tokens | tokens of a trajectory | anew, s | kept, s | anew / kept |\n|---|---|---|---|---|"
    )
    for line in lines(a):
        print(line, flush=True)


def lines(a: argparse.Namespace) -> Iterator[str]:
    lengths = [int(n) for n in a.prompt_tokens.split(",")]
    now = time.process_time if a.device == "cpu" else time.perf_counter
    shape = Shape(vocabulary=a.vocabulary, hidden=a.hidden, layers=a.layers)
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), shape, context=max(lengths) + a.turns * (4 * a.said + a.told))
        settings = ModelSettings(name=folder, adapter="none", device=a.device, dtype=a.dtype)
        policy = load_policy(settings)
    policy = replace(policy, stop_ids=frozenset(range(0, a.vocabulary, a.said)))
    for length in lengths:
        game = Game(
            policy=policy,
            prompt_tokens=length,
            **{name: getattr(a, name) for name in ("prompts", "members", "turns", "said", "told")},
        )
        said = {keep: game.play(keep=keep) for keep in (True, False)}  # which warms both up
        if a.dtype == "float32" and said[True] != said[False]:
            raise SystemExit("the two ways do not sample the same tokens")
        spent: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(a.repeats):
            for keep in (True, False):
                began = now()
                game.play(keep=keep)
                spent[keep].append(now() - began)
        anew, kept = median(spent[False]), median(spent[True])
        tokens = sum(map(len, said[True])) / len(said[True])
        yield f"| {length} | {tokens:.0f} | {anew:.2f} | {kept:.2f} | {anew / kept:.2f} |"


if __name__ == "__main__":
    main()
