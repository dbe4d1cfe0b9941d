"""The model at a service, as a policy: its texts are made here, its tokens and log-probs there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from refine_rl.engines.tinker.adapter_files import write_adapter
from refine_rl.engines.tinker.address import sdk
from refine_rl.engines.tinker.bill import Use
from refine_rl.engines.tinker.service import Asked, Service
from refine_rl.engines.tinker.weights import Adapter, Base, Weights
from refine_rl.errors import MachineError, UserError
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.draw import Sampling
from refine_rl.policy.memory import Memory
from refine_rl.policy.origin import find_origin
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Purpose, Spoken
from refine_rl.policy.sample import Ending, Stem, exact, spoken_turn, stems_of
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause, never
from refine_rl.randomness import generator
from refine_rl.settings.revision import on_hub
from refine_rl.types import Trajectory


@dataclass(kw_only=True, eq=False)
class TinkerPolicy(DecoderOnly):
    """`model` has a shape and no weights. `weights` are those with which it speaks; `base` is the reference;
    `apart` the mean difference in nats a token that is let pass between the service's sampler and trainer;
    `at_once` are the requests for samples that may be under way."""

    service: Service
    weights: Weights
    base: Base
    apart: float
    at_once: int

    @property
    def where(self) -> str:
        return f"at {self.service.address.url}, as {self.service.address.model}"

    @property
    def form(self) -> str:
        """The service's own affair, so that nothing is settled for later work on this machine."""
        return "auto"

    @property
    def tolerance(self) -> float:
        return self.apart

    @property
    def moving(self) -> str:
        """A service computes a text as it does."""
        return ""

    @property
    def shares_prompts(self) -> bool:
        return False

    @property
    def why_plain(self) -> str:
        return ""

    def memory(self) -> Memory | None:
        return None

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Pause = never,
        memory: Memory | None = None,
    ) -> Iterator[Spoken]:
        """A request for the members of a group whose tokens so far are the same; whatever answers first comes
        out first. Draws are the service's own, from seeds that follow from what they are for."""
        ending = Ending(groups)
        yield from ending.empty()
        stems = iter(stems_of(groups))
        under_way: list[tuple[Asked, Stem]] = []
        try:
            while True:
                for stem in islice(stems, self.at_once - len(under_way)):
                    asked = self._ask(stem, sampling, purpose, pause)
                    under_way.append((asked, stem))
                if not under_way:
                    return
                wait([asked.future for asked, _ in under_way], timeout=0.02, return_when="FIRST_COMPLETED")
                first = next((each for each in under_way if each[0].future.done()), under_way[0])
                said = self._heard(*first, pause)
                under_way.remove(first)
                yield from ending.add(first[1].place, said)
        finally:
            for asked, _ in under_way:
                asked.give_up()

    def _ask(self, stem: Stem, sampling: Sampling, purpose: Purpose, pause: Pause) -> Asked:
        types, ids, first = sdk().types, list(stem.token_ids), stem.members[0]
        params = types.SamplingParams(
            max_tokens=max(1, min(sampling.max_tokens, self.answer_room(len(ids)))),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            stop=sorted(self.stop_ids),
            seed=seed_of(purpose, first, len(stem.members)),
        )
        sampler, line = self.weights.sampler(pause), self.service.bill.begin("sample", first.prompt.id)
        asked = sampler.sample(types.ModelInput.from_ints(ids), len(stem.members), params)
        return self.service.ask(asked, "Sampling", line)

    def _heard(self, asked: Asked, stem: Stem, pause: Pause) -> list[Trajectory]:
        """The trajectories of a stem, once they are there. Raises MachineError where what came cannot be
        trained on."""
        sequences = self.service.result(asked, pause).sequences
        if asked.line is not None:
            written = sum(len(s.tokens) for s in sequences)
            asked.line.end(Use(prefill=len(stem.token_ids), sample=written))
        if len(sequences) != len(stem.members):
            raise self._unusable(f"{len(sequences)} answers came where {len(stem.members)} were asked for")
        return [self._trajectory(member, s) for member, s in zip(stem.members, sequences, strict=True)]

    def _trajectory(self, member: Begun, sequence: Any) -> Trajectory:
        tokens, logprobs = sequence.tokens, sequence.logprobs
        if not tokens or logprobs is None or len(tokens) != len(logprobs):
            raise self._unusable("an answer came without tokens, or without a log-prob for each")
        if sequence.stop_reason == "stop" and tokens[-1] not in self.stop_ids:
            raise self._unusable(
                "an answer came without the token that ended it, which has to be trained like the others"
            )
        return spoken_turn(
            self, member, self.opening(member.asked), list(tokens), [exact(x) for x in logprobs]
        )

    def _unusable(self, why: str) -> MachineError:
        return MachineError(f"Sampling: {why}. {self.service.address.url} does not speak Tinker's interface.")

    def logprobs(self, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
        """Without a gradient: the service keeps that to itself."""
        if temperature != 1.0:
            raise ValueError(f"a Tinker service gives log-probs at temperature 1 alone, not at {temperature}")
        return self.weights.logprobs(batch, never)

    @property
    def has_reference(self) -> bool:
        return True

    @contextlib.contextmanager
    def reference(self) -> Iterator[Policy]:
        """The base model, which the service offers beside the adapter."""
        yield replace(self, weights=self.base)

    def save(self, folder: Path) -> None:
        """The adapter as peft loads it upon `source`."""
        if not isinstance(self.weights, Adapter):
            raise UserError("The base model is the service's own; there is no adapter to be saved.")
        base, at = on_hub(find_origin(self.source).base)
        write_adapter(self.weights.export(), folder, base=base, **at)
        self.save_around(folder)


def tinker_policy(
    texts: DecoderOnly, *, service: Service, weights: Adapter, at_once: int, context: int | None
) -> TinkerPolicy:
    """`texts` (a policy without weights) as the model at a service, which reads `context` tokens at most."""
    parts = {field.name: getattr(texts, field.name) for field in fields(texts)}
    parts["device"] = torch.device("cpu")  # where rows and losses are
    parts["context_length"] = min(texts.context_length, context or texts.context_length)
    return TinkerPolicy(
        **parts, service=service, weights=weights, base=Base(service=service), apart=0.0, at_once=at_once
    )


def seed_of(purpose: Purpose, first: Begun, members: int) -> int:
    """The seed of a request for `members` samples, of whom `first` is the first. Services count on from it,
    one a sample: so two requests share all of their draws or none.

    >>> from refine_rl.types import Prompt
    >>> begun = Begun(prompt=Prompt(id="p1", split="train", messages=()), member=0, segments=())
    >>> seed_of(Purpose(seed=0, step=3, name="rollout"), begun, 8) % 8
    0
    """
    key = (purpose.seed, purpose.step, purpose.name, first.prompt.id, first.member)
    return int(generator("tinker", *key).integers(2**31 // members)) * members
