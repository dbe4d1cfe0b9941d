"""The engine whose answers come from a vLLM server, and whose weights are trained in this process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refine_rl.engines.base import Loading
from refine_rl.engines.vllm.adapters import Adapters
from refine_rl.engines.vllm.meeting import Met, meet, model_of
from refine_rl.engines.vllm.probe import MARGIN
from refine_rl.engines.vllm.server import Server, endpoint_of
from refine_rl.engines.vllm.speaker import ServedSpeaker
from refine_rl.engines.vllm.start import start_command
from refine_rl.errors import UserError
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.draw import Sampling
from refine_rl.policy.origin import find_origin
from refine_rl.policy.policy import Policy
from refine_rl.settings import EngineSettings, ModelSettings
from refine_rl.training import checkpoint
from refine_rl.training.check import Check
from refine_rl.training.learner import LearnerConfig
from refine_rl.training.local import LocalLearner, local_learner


@dataclass(kw_only=True, eq=False)
class VllmEngine:
    """`policy` has the weights; `speaker` answers with them, at the server."""

    policy: Policy
    speaker: ServedSpeaker
    notes: tuple[str, ...]
    temporary: Any = field(default=None, repr=False)  # a folder that goes with the engine

    def hold_still(self, longest: int) -> bool:
        self.speaker.adapters.let_go()  # positions that are computed otherwise move log-probs as well
        return self.policy.hold_still(longest)

    def learner(self, config: LearnerConfig) -> LocalLearner:
        learner = local_learner(self.policy, config)
        learner.check = Check(speaker=self.speaker, temperature=config.temperature, allowed=config.allowed)
        return learner

    def take(self, folder: Path) -> None:
        checkpoint.load(folder, self.policy)

    def close(self) -> None:
        self.speaker.adapters.close()
        self.speaker.adapters.server.close()
        if self.temporary is not None:
            self.temporary.cleanup()


def require_server(settings: EngineSettings, model: ModelSettings) -> None:
    """Raises UserError for a server that is wrongly named, MachineError for one that does not answer; without
    loading a model."""
    server = _server(settings, model, rank=model.rank, dtype=model.dtype, temperature=1.0)
    try:
        model_of(server, find_origin(model.source).base)
    finally:
        server.close()


def vllm_engine(settings: EngineSettings, loading: Loading, config: LearnerConfig) -> VllmEngine:
    """The engine, with its model loaded here, and the server met. Raises UserError where either cannot be
    used, MachineError where the server does not answer."""
    policy = loading.policy()
    if not isinstance(policy, DecoderOnly):
        raise UserError(
            f'engine.kind = "vllm": {policy.source} is an encoder-decoder, which vLLM does not serve. Leave '
            "[engine] out."
        )
    server = _server(
        settings,
        loading.model,
        rank=_rank(policy, loading.model.rank),
        dtype=policy.form,
        temperature=config.temperature,
    )
    temporary = None if settings.adapter_folder else tempfile.TemporaryDirectory(prefix="refine-adapters-")
    folder = (
        Path(settings.adapter_folder).expanduser().absolute() if temporary is None else Path(temporary.name)
    )
    if temporary is not None:
        folder.chmod(0o755)  # the server may be another user's
    adapters = Adapters(policy=policy, server=server, folder=folder)
    try:
        met = meet(policy, adapters, allowed=config.allowed)
        speaker = _speaker(policy, adapters, met, config.temperature)
    except BaseException:
        server.close()
        if temporary is not None:
            temporary.cleanup()
        raise
    return VllmEngine(policy=policy, speaker=speaker, notes=_notes(server, met, speaker), temporary=temporary)


def _server(
    settings: EngineSettings, model: ModelSettings, *, rank: int, dtype: str, temperature: float
) -> Server:
    """The server that the settings name; the rest is said in the command that would start it."""
    endpoint = endpoint_of(settings, name="vllm", table="engine")
    if not settings.adapter_folder and not endpoint.local:
        raise UserError(
            f"engine.base_url = {settings.base_url!r} is on another machine: name a folder in "
            "engine.adapter_folder that this process and the server both see, by the same path (a shared "
            "disk). vLLM reads each step's adapter there."
        )
    start = start_command(
        find_origin(model.source).base,
        rank=rank,
        dtype=dtype,
        base_url=settings.base_url,
        temperature=temperature,
        key_env=settings.key_env,
    )
    return Server(endpoint, start)


def _speaker(policy: Policy, adapters: Adapters, met: Met, temperature: float) -> ServedSpeaker:
    adapters.probe = met.probe
    tolerance = max(policy.tolerance, MARGIN * met.probe.noise)
    speaker = ServedSpeaker(policy=policy, adapters=adapters, tolerance=tolerance, processed=met.processed)
    speaker.require_logprobs(Sampling(max_tokens=1, temperature=temperature))
    return speaker


def _rank(policy: Policy, own: int) -> int:
    """The rank of the adapter that is saved, with that of the one which the model came with."""
    start = {} if policy.start is None else policy.start.matrices
    return own + max((m.shape[0] for name, m in start.items() if "lora_A" in name), default=0)


def _notes(server: Server, met: Met, speaker: ServedSpeaker) -> tuple[str, ...]:
    return (
        f"answers are sampled by {server.shown} ({met.base}, which reads {speaker.context_length:,} tokens): "
        f"its log-probs and those of here differ by {met.probe.noise:.1e} nats a token, and each step lets "
        f"{speaker.tolerance:.1e} through",
        "the server draws for itself: the record of what it sampled is the truth, and a replay compares "
        "log-probs instead of tokens",
    )
