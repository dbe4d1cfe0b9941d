"""The weights at a service: an adapter that is trained, and the base model without it. Each answers for
samplers and for log-probs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, Protocol

import torch

from refine_rl.engines.tinker.address import Address, sdk, status_of
from refine_rl.engines.tinker.bill import Use
from refine_rl.engines.tinker.datums import datums, logprobs_of
from refine_rl.engines.tinker.export import export
from refine_rl.engines.tinker.service import Asked, Service, in_background
from refine_rl.errors import MachineError, UserError
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause, never

Most = tuple[int, int]
"""Rows and tokens of one request."""
WHOLE: Most = (1_024, 250_000)
"""Of what the SDK sends as one (`fwdbwd_max_chunk_len`, `fwdbwd_max_chunk_bytes_count`: 1,024 rows, 5 MB at
20 bytes a token), where a service does not say otherwise. What it cuts all the same adds up to the same."""
OF_MEANS: Most = (128, 100_000)
"""Of one where a service takes means over the rows of a request: the SDK must not cut it."""
FORGETTING = 10.0
"""Seconds for which the deletion of states is waited for."""
LOSS = "importance_sampling"
"""The one loss that is asked for: its gradient is that of whatever loss was computed here (learner.py)."""


class Weights(Protocol):
    """Weights that answer and are asked for log-probs."""

    def sampler(self, pause: Pause) -> Any:
        """The SDK's sampling client for them as they are now."""

    def logprobs(self, batch: TokenBatch, pause: Pause) -> torch.Tensor:
        """log pi(token | all before it), [B, T] float32, 0 where not trainable."""


@dataclass(kw_only=True, eq=False)
class Base:
    """The model without an adapter. Log-probs are the sampler's: nobody trains it."""

    service: Service
    _sampler: Any = None

    def sampler(self, pause: Pause) -> Any:
        if self._sampler is None:
            service = self.service

            def make() -> Any:
                return service.client.create_sampling_client(base_model=service.address.model).result()

            asked = service.ask(in_background(make), f"Opening {service.address.model}")
            self._sampler = service.result(asked, pause)
        return self._sampler

    def logprobs(self, batch: TokenBatch, pause: Pause) -> torch.Tensor:
        sampler, service = self.sampler(pause), self.service
        found, asked = torch.zeros(batch.ids.shape), []
        try:
            for ids, end in zip(batch.ids, batch.lengths, strict=True):
                line = service.bill.begin("reference")
                prompt = sdk().types.ModelInput.from_ints(ids[:end].tolist())
                asked.append(service.ask(sampler.compute_logprobs(prompt), "The reference's log-probs", line))
            for row, (one, end) in enumerate(zip(asked, batch.lengths, strict=True)):
                values = service.billed(one, Use(prefill=end, sample=1), pause)
                found[row, 1:end] = torch.tensor(values[1:], dtype=torch.float32)
        finally:
            for one in asked:
                one.give_up()
        return torch.where(batch.trainable, found, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slopes:
    """Rows, and dL/dlogp of a loss at their log-probs `now_B_T`, which are those of the weights as they
    are."""

    batch: TokenBatch
    now_B_T: torch.Tensor
    slopes_B_T: torch.Tensor


@dataclass(kw_only=True, eq=False)
class Adapter:
    """The adapter of rank `rank` that is trained. It is made, untrained, with its first use, unless it was
    restored. `reduction` is how the service adds up the tokens and rows of a loss.

    `whole`: the weights are those between two steps, as far as is known here.
    """

    service: Service
    rank: int
    seed: int
    reduction: Literal["sum", "mean"] = "sum"
    whole: bool = True
    _trainer: Any = None
    _sampler: Any = None

    def trainer(self, pause: Pause = never) -> Any:
        """The SDK's training client."""
        if self._trainer is None:
            client, address = self.service.client, self.service.address

            def make() -> Any:
                return client.create_lora_training_client(
                    base_model=address.model, rank=self.rank, seed=self.seed, train_unembed=False
                ).result()

            self._take(make, f"Making an adapter of {address.model}", pause)
        return self._trainer

    def restore(self, path: str, *, optimizer: bool) -> None:
        """Goes on from a state of the service's. Raises UserError where it has it no longer, or it is
        another model's."""
        client, address = self.service.client, self.service.address

        def make() -> Any:
            if optimizer:
                return client.create_training_client_from_state_with_optimizer(path).result()
            return client.create_training_client_from_state(path).result()

        try:
            self._take(make, f"Restoring {path}", never)
        except MachineError as error:
            if gone(error, address):
                raise UserError(
                    f"{address.url} has no state {path} (any more): {error} Go back to an earlier checkpoint "
                    "with --from-step, or to the start with --from-step 0."
                ) from error
            raise

    def _take(self, make: Callable[[], Any], doing: str, pause: Pause) -> None:
        address = self.service.address
        trainer = self.service.result(self.service.ask(in_background(make), doing), pause)
        info = trainer.get_info()
        if info.model_data.model_name not in (None, address.model) or info.lora_rank not in (None, self.rank):
            raise UserError(
                f"{doing}: {address.url} gave a model {info.model_data.model_name!r} of rank "
                f"{info.lora_rank}, and {address.model!r} of rank {self.rank} was asked for. [model] and "
                "engine.model must not change."
            )
        self._trainer, self._sampler, self.whole = trainer, None, True

    def sampler(self, pause: Pause) -> Any:
        if self._sampler is None:
            trainer = self.trainer(pause)
            asked = self.service.ask(trainer.save_weights_and_get_sampling_client(), "Opening a sampler")
            self._sampler = self.service.result(asked, pause)
        return self._sampler

    def logprobs(self, batch: TokenBatch, pause: Pause) -> torch.Tensor:
        """The trainer's: what the sampler's are held against."""
        (found,) = self.logprobs_each([batch], pause)
        return found

    def logprobs_each(self, batches: Sequence[TokenBatch], pause: Pause) -> list[torch.Tensor]:
        """`logprobs` of each of several batches, all in as few requests as the SDK makes of them."""
        trainer = self.trainer(pause)
        lengths = [length for batch in batches for length in batch.lengths]
        zeros = [torch.zeros(batch.ids.shape) for batch in batches]
        made = [row for batch, zero in zip(batches, zeros, strict=True) for row in datums(batch, zero, zero)]

        def send() -> Iterator[tuple[Asked, Use]]:
            for rows in requests(lengths, WHOLE):
                line = self.service.bill.begin("forward")
                asked = trainer.forward(made[rows.start : rows.stop], LOSS)
                use = Use(prefill=sum(lengths[rows.start : rows.stop]))
                yield self.service.ask(asked, "The log-probs of the trainer", line), use

        outputs = chain.from_iterable(given.loss_fn_outputs for given in self._given(send(), pause))
        return [logprobs_of([*islice(outputs, len(batch.lengths))], batch) for batch in batches]

    def gradient(self, parts: Sequence[Slopes], pause: Pause) -> None:
        """Adds up the gradient of sum(slopes * log-probs) over all parts, in as few requests as may be."""
        trainer = self.trainer()
        lengths = [length for part in parts for length in part.batch.lengths]
        means = self.reduction == "mean"
        cuts = list(requests(lengths, OF_MEANS if means else WHOLE))
        # A service of means divides each row by its targets, and the sum by the rows of the request.
        factors = [(lengths[row] - 1.0) * len(rows) if means else 1.0 for rows in cuts for row in rows]
        row_factors = torch.split(torch.tensor(factors), [len(part.batch.lengths) for part in parts])
        made = [
            row
            for part, factor in zip(parts, row_factors, strict=True)
            for row in datums(part.batch, part.now_B_T, -part.slopes_B_T * factor[:, None])
        ]

        def send() -> Iterator[tuple[Asked, Use]]:
            for rows in cuts:
                line = self.service.bill.begin("update")
                asked = trainer.forward_backward(made[rows.start : rows.stop], LOSS)
                use = Use(train=sum(lengths[rows.start : rows.stop]))
                yield self.service.ask(asked, "The gradient", line), use

        self._given(send(), pause)

    def _given(self, requests: Iterable[tuple[Asked, Use]], pause: Pause) -> list[Any]:
        """What requests gave: all are sent before the first is waited for, and each has the time-out's
        seconds behind the one before."""
        sent: list[tuple[Asked, Use]] = []
        try:
            for request in requests:
                sent.append(request)
                pause()
            return [self.service.billed(asked, use, pause) for asked, use in sent]
        finally:
            for asked, _ in sent:
                asked.give_up()

    def step(self, *, rate: float, weight_decay: float, max_norm: float, last: bool = True) -> float | None:
        """Moves the weights along the gradient; its norm before clipping, where the service says it. Nothing
        interrupts this: whoever gave up waiting would not know which weights there are. `last`: no other
        moves follow in this step."""
        params = sdk().types.AdamParams(
            learning_rate=rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=weight_decay,
            grad_clip_norm=max_norm,
        )
        trainer, self.whole, self._sampler = self.trainer(), False, None
        given = self.service.result(self.service.ask(trainer.optim_step(params), "The step of the optimizer"))
        self.whole = last
        return norm_in(given.metrics or {})

    def save(self, name: str) -> str:
        """A state of the weights and the optimizer, kept by the service; its path there."""
        asked = self.service.ask(self.trainer().save_state(name, overwrite=True), "Saving the state")
        return str(self.service.result(asked).path)

    def forget(self, paths: Sequence[str]) -> None:
        """Deletes states; one that the service does not delete stays there."""
        address = self.service.address

        def delete(path: str) -> None:
            rest = sdk().RestClient(base_url=address.url, api_key=address.key)
            rest.delete_checkpoint_from_tinker_path(path).result()

        wait([in_background(partial(delete, path)) for path in paths], timeout=FORGETTING)

    def export(self) -> dict[str, bytes]:
        """The adapter's files, by name."""
        name = f"adapter-{uuid.uuid4().hex[:12]}"
        return export(self.service, self.trainer(), name)


def requests(lengths: Sequence[int], most: Most) -> Iterator[range]:
    """Rows of these lengths in their order, as many in each request as it may have, at least one.

    >>> list(requests([60_000, 40_000, 1, 150_000, 7], (128, 100_000)))
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    most_rows, most_tokens = most
    start = tokens = 0
    for row, length in enumerate(lengths):
        if row > start and (row - start == most_rows or tokens + length > most_tokens):
            yield range(start, row)
            start, tokens = row, 0
        tokens += length
    if lengths:
        yield range(start, len(lengths))


def gone(error: BaseException, address: Address) -> bool:
    """Whether a state is not there: services say so by status, or only in words."""
    cause = error.__cause__ or error.__context__
    return status_of(cause) == 404 or bool(
        re.search("(not|no).{0,20}(found|such|checkpoint)", str(error), re.I)
    )


def norm_in(metrics: dict[str, float]) -> float | None:
    """The gradient's norm among an optimizer's metrics, before clipping where both are there.

    >>> norm_in({"grad_norm:clipped": 1.0, "grad_norm:unclipped": 2.5}), norm_in({"lr": 0.1})
    (2.5, None)
    """
    found = {name: value for name, value in metrics.items() if "grad_norm" in name}
    before = [value for name, value in found.items() if "unclipped" in name]
    return next(iter([*before, *found.values()]), None)
