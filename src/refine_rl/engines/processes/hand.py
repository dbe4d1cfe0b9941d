"""What each process does with its copy of a model: its share of answers, log-probs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from refine_rl.engines.processes.place import Place
from refine_rl.policy.draw import Sampling
from refine_rl.policy.memory import Memory
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Purpose, Speaker, Spoken
from refine_rl.policy.shard import Lockstep, shard
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause
from refine_rl.training.learner import LearnerConfig, Objective
from refine_rl.training.local import LocalLearner, local_learner, parameters_of
from refine_rl.training.update import Found

BUCKET = 1 << 24
"""So many numbers of a gradient are added up over the processes at once."""

States = Sequence[tuple[str, str, tuple[int, ...], torch.dtype]]
"""An optimizer's tensors: the parameter's name, the key, shape and number format."""


@dataclass(kw_only=True, eq=False)
class Hand:
    """A model in one process. `memories` are what the latest play of several turns keeps, by its number."""

    place: Place
    policy: Policy
    lockstep: Lockstep | None = None  # where no process has the whole model
    learner: LocalLearner | None = None
    memories: dict[int, Memory | None] = field(default_factory=dict)

    def spread(self, device: str) -> None:
        """Spreads the model over the devices of that kind. All processes call it, at once."""
        self.lockstep = shard(self.policy, torch.device(device))

    def learn(self, config: LearnerConfig) -> LocalLearner:
        """Makes ready to learn from this process's rows."""
        self.learner = local_learner(self.policy, config)
        self.learner.share = (self.place.rank, self.place.size)
        if self.lockstep is not None:
            self.learner.lanes = 1  # passes in no order are no lockstep
        return self.learner

    def speaker(self, reference: bool) -> AbstractContextManager[Speaker]:
        """The model, or what it was before training."""
        return self.policy.reference() if reference else nullcontext(self.policy)

    def memory(self, number: int | None) -> Memory | None:
        """That of a play; a new play's is empty, and the one before is forgotten."""
        if number is None:
            return None
        if number not in self.memories:
            self.memories = {number: self.policy.memory()}
        return self.memories[number]

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Pause,
        memory: Memory | None,
        reference: bool,
    ) -> Generator[Spoken]:
        """This process's share of groups."""
        with self.together(), self.speaker(reference) as speaker:
            yield from speaker.speak(groups, sampling=sampling, purpose=purpose, pause=pause, memory=memory)

    @torch.no_grad()
    def logprobs(self, batch: TokenBatch | None, temperature: float, *, reference: bool) -> torch.Tensor:
        """[B, T] on the processor; without a batch, none."""
        with self.together(), self.speaker(reference) as speaker:
            if batch is None:
                return torch.empty(0, 0)
            return speaker.logprobs(batch, temperature=temperature).cpu()

    def gradient(self, objective: Objective, step: int, update: int, pause: Pause) -> Found:
        """Of this process's rows."""
        assert self.learner is not None
        with self.together(learns=True):
            return self.learner.gradient(objective, step, update, pause).on_processor()

    def together(self, *, learns: bool = False) -> AbstractContextManager[None]:
        """A block of passes that all processes make alike, where they have to."""
        return nullcontext() if self.lockstep is None else self.lockstep.together(learns=learns)

    def touched(self) -> list[bool]:
        """Which of the parameters have a gradient here."""
        return [p.grad is not None for p in parameters_of(self.policy)]

    def add_up(self, touched: Sequence[bool]) -> None:
        """The sum of all processes' gradients, in the `grad` of the parameters that any of them `touched`.
        All processes call it."""
        some = [p for p, has in zip(parameters_of(self.policy), touched, strict=True) if has]
        for p in some:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in _buckets(some):
            gradients = [p.grad for p in bucket if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            everywhere(flat, dist.all_reduce)
            for gradient, part in zip(
                gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))

    def move(self, rate: float, norm: float) -> int:
        """The optimizer's step along a gradient of that norm; the check sum of the weights after it."""
        learner = self.learner
        assert learner is not None
        nn.utils.clip_grads_with_norm_(parameters_of(self.policy), learner.max_grad_norm, torch.tensor(norm))
        learner.move(rate)
        return self.policy.check_sum()

    @torch.no_grad()
    def take_weights(self) -> None:
        """The first process's weights in all. All processes call it."""
        for parameter in parameters_of(self.policy):
            everywhere(parameter.data, _from_the_first)

    @torch.no_grad()
    def take_states(self, states: States) -> None:
        """The first process's optimizer in all. All processes call it."""
        learner, parameters = self.learner, self.policy.trainable()
        assert learner is not None
        for name, key, shape, dtype in states:
            parameter = parameters[name]
            state = learner.optimizer.state[parameter]
            if self.place.rank:
                # AdamW counts its steps in a tensor of the processor, whatever the parameter's device.
                device = torch.device("cpu") if key == "step" else parameter.device
                state[key] = torch.empty(shape, dtype=dtype, device=device)
            everywhere(state[key], _from_the_first)

    def states(self) -> States:
        """Which tensors `take_states` is about."""
        assert self.learner is not None
        state = self.learner.optimizer.state
        return [
            (name, key, tuple(value.shape), value.dtype)
            for name, parameter in sorted(self.policy.trainable().items())
            for key, value in sorted(state.get(parameter, {}).items())
        ]


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one number format, at most BUCKET numbers together (but at least one parameter)."""
    bucket: list[nn.Parameter] = []
    for p in parameters:
        full = sum(q.numel() for q in bucket) + p.numel() > BUCKET
        if bucket and (full or p.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


def _from_the_first(tensor: torch.Tensor) -> None:
    dist.broadcast(tensor, 0)


def everywhere(tensor: torch.Tensor, collective: Callable[[torch.Tensor], object]) -> None:
    """A collective that writes into the tensor; by way of the processor where the device knows none."""
    if tensor.device.type in ("cpu", "cuda"):
        whole = tensor.contiguous()
        collective(whole)
        if whole is not tensor:
            tensor.copy_(whole)
    else:
        there = tensor.cpu()
        collective(there)
        tensor.copy_(there)
