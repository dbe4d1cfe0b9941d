"""A base model that no process has room for: each keeps a part of every layer's weights (FSDP2).

A layer's weights are brought together when it is computed and let go behind it. The frozen weights of the
layers are spread; embedding, norms, head and the adapter, which is what training changes, are whole in every
process. So gradients, optimizer, checkpoints and the saved model are those of a model that is not spread,
and so are the fast paths, which look at no frozen weight outside of its layer.

Bringing weights together takes all processes at once: they must make equally many passes, in the same order.
Who has less work, or none, makes passes over nothing (`Lockstep`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from refine_rl.errors import UserError
from refine_rl.policy.decode_static import why_uncaptured
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.policy import Policy
from refine_rl.progress import never


class Lockstep:
    """Passes of all processes together. A block of work begins and ends for all at once. `sign` is called
    with each pass over nothing: the process lives."""

    def __init__(self, body: nn.Module, device: torch.device) -> None:
        self._body, self._device, self._works = body, device, False
        self.sign: Callable[[], None] = never
        body.register_forward_pre_hook(self._before)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if self._works:
            self._anybody(True)

    @contextlib.contextmanager
    def together(self, *, learns: bool) -> Iterator[None]:
        """This process's work, which may be none; it goes on until that of all is done. `learns`: each pass
        forward is followed by one backward."""
        self._works = True
        try:
            yield
        finally:
            self._works = False
            while self._anybody(False):
                self._nothing(learns)
                self.sign()

    def _anybody(self, working: bool) -> bool:
        """Whether any process makes a pass now; all say it of themselves."""
        found = torch.tensor([int(working)])
        dist.all_reduce(found)
        return bool(found.item())

    def _nothing(self, learns: bool) -> None:
        """A pass over one token, of which nothing is used."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        with torch.set_grad_enabled(learns):
            hidden = self._body(input_ids=ids, use_cache=False).last_hidden_state
        if learns:
            trained = [p for p in self._body.parameters() if p.requires_grad]
            torch.autograd.grad(hidden.sum(), trained, allow_unused=True)


def shard(policy: Policy, device: torch.device) -> Lockstep:
    """Spreads the layers' frozen weights over the processes of torch's group, on this kind of device; the
    model was loaded on the processor. All processes call it. Raises UserError for a model that cannot be
    spread."""
    if not isinstance(policy, DecoderOnly) or not policy.adapter:
        raise UserError(
            "engine.shard = true spreads the frozen weights of a decoder-only model with an adapter, and "
            f"{policy.source} is not one as it is trained here. Leave engine.shard out."
        )
    assert policy.shares_prompts in (True, False)  # the fast path is looked for by each process alone
    bare = policy.model.get_base_model()
    body = bare.base_model
    frozen = {p for layer in _layers(body) for p in layer.parameters() if not p.requires_grad}
    whole = {p for p in bare.parameters() if p not in frozen}
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # late: half a second that other runs need not wait

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*_layers(body), body):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    policy.model.to(device)
    policy.device = device
    why_uncaptured[policy.model] = "its weights are spread over processes"
    return Lockstep(body, device)


def _layers(body: nn.Module) -> list[nn.Module]:
    """The layers of a transformer: the members of its longest list of modules."""
    lists = [m for m in body.modules() if isinstance(m, nn.ModuleList)]
    return list(max(lists, key=len, default=()))
