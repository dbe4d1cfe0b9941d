"""A policy whose weights are here, and whose answers come from a vLLM server that has its adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from refine_rl.engines.vllm.adapters import Adapters
from refine_rl.engines.vllm.reply import Asked, Nonsense, Said
from refine_rl.engines.vllm.server import Refused
from refine_rl.errors import MachineError, UserError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.memory import Memory
from refine_rl.policy.protocol import Begun, Purpose, Speaker, Spoken
from refine_rl.policy.sample import Ending, Stem, exact, spoken_turn, stems_of
from refine_rl.policy.spoken_for import SpokenFor
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause, never
from refine_rl.randomness import generator


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedSpeaker(SpokenFor):
    """`tolerance` is what was measured when the server was met; `processed` says that its log-probs are those
    of the distribution that it draws from, and not those at temperature 1."""

    adapters: Adapters
    tolerance: float
    processed: bool

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Pause = never,
        memory: Memory | None = None,
    ) -> Iterator[Spoken]:
        """Each member with one more turn. What is drawn is the server's affair: `purpose` seeds it, and yet
        the same seed may give other tokens another time."""
        self.require_logprobs(sampling)
        ending = Ending(groups)
        yield from ending.empty()
        for stem, said in self._answers(stems_of(groups), sampling, purpose, pause):
            opening = self.policy.opening(stem.members[0].asked)
            turns = [
                spoken_turn(self.policy, member, opening, its.tokens, [exact(x) for x in its.logprobs])
                for member, its in zip(stem.members, said, strict=True)
            ]
            yield from ending.add(stem.place, turns)

    def require_logprobs(self, sampling: Sampling) -> None:
        """Raises UserError where the server's log-probs are not those that training needs: at the sampling
        temperature, over the whole vocabulary."""
        server = self.adapters.server
        if sampling.temperature not in (0.0, 1.0) and not self.processed:
            raise UserError(
                f"rollout.temperature = {sampling.temperature:g}, and {server.shown} gives log-probs of "
                f"temperature 1. Sample at 1, or start it so:\n{server.start}"
            )
        if sampling.temperature > 0 and self.processed and not sampling.whole(self.policy.vocabulary):
            raise UserError(
                f"rollout.top_p and rollout.top_k: {server.shown} gives log-probs after them "
                "(--logprobs-mode processed_logprobs), and training needs those of the whole vocabulary. "
                "Leave them out, or start it without that flag."
            )

    def _answers(
        self, stems: Sequence[Stem], sampling: Sampling, purpose: Purpose, pause: Pause
    ) -> Iterator[tuple[Stem, list[Said]]]:
        """Each stem with what its members say, as it comes. A server that was started anew in between is
        given the adapter once more."""
        left = dict(enumerate(stems))
        for last in (False, True):
            name = self.adapters.current()
            asked = {n: self._asked(stem, name, sampling, purpose) for n, stem in left.items()}
            places = list(asked)
            try:
                for at, answer in self.adapters.server.ask_each(
                    "completions", [asked[n].body for n in places], pause
                ):
                    n = places[at]
                    yield left.pop(n), self._said(asked[n], answer)
                return
            except Refused as error:
                if error.status != 404 or last:
                    raise MachineError(
                        f"{self.adapters.server.shown} does not answer for {name}: {error}"
                    ) from None
                self.adapters.forget()

    def _said(self, asked: Asked, answer: object) -> list[Said]:
        try:
            return asked.said(answer)
        except Nonsense as error:
            raise self.adapters.server.nonsense(str(error)) from None

    def _asked(self, stem: Stem, name: str, sampling: Sampling, purpose: Purpose) -> Asked:
        first = stem.members[0]
        seed = generator(purpose.seed, purpose.step, first.prompt.id, first.member, purpose.name, "served")
        return Asked(
            model=name,
            ids=stem.token_ids,
            n=len(stem.members),
            seed=int(seed.integers(2**62)),
            sampling=sampling,
            stops=self.policy.stop_ids,
            vocabulary=self.policy.vocabulary,
        )

    def memory(self) -> None:
        """The server keeps its own."""

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> torch.Tensor:
        return self.policy.logprobs(batch, temperature=temperature)

    def reference(self) -> AbstractContextManager[Speaker]:
        """In this process."""
        return self.policy.reference()
