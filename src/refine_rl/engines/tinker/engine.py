"""The engine of a Tinker service: nothing is computed here but texts and losses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from refine_rl.engines.base import Loading
from refine_rl.engines.tinker.address import address_of
from refine_rl.engines.tinker.bill import Bill
from refine_rl.engines.tinker.learner import TinkerLearner, state_in
from refine_rl.engines.tinker.service import offered, session
from refine_rl.engines.tinker.speaker import TinkerPolicy, tinker_policy
from refine_rl.engines.tinker.trial import tried
from refine_rl.engines.tinker.weights import Adapter
from refine_rl.errors import UserError
from refine_rl.llm.ledger import Ledger
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.load import without_weights
from refine_rl.policy.origin import find_origin
from refine_rl.settings import EngineSettings, ModelSettings
from refine_rl.settings.revision import on_hub
from refine_rl.training import checkpoint
from refine_rl.training.check import Check
from refine_rl.training.learner import LearnerConfig


@dataclass(eq=False)
class TinkerEngine:
    """The model at a service answers and learns."""

    policy: TinkerPolicy
    weights: Adapter
    notes: tuple[str, ...] = ()

    @property
    def speaker(self) -> TinkerPolicy:
        return self.policy

    def hold_still(self, longest: int) -> bool:
        """A service computes a text as it does."""
        return False

    def learner(self, config: LearnerConfig) -> TinkerLearner:
        check = Check(speaker=self.policy, temperature=config.temperature, allowed=config.allowed)
        return TinkerLearner(weights=self.weights, check=check, config=config)

    def take(self, folder: Path) -> None:
        checkpoint.check(folder)
        self.weights.restore(state_in(folder), optimizer=False)

    def close(self) -> None:
        self.policy.service.close()


def require_service(settings: EngineSettings, model: ModelSettings) -> None:
    """Raises UserError where the service does not let us in or has not the model, MachineError where nobody
    answers: before anything is paid for."""
    offered(address_of(settings, on_hub(model.name)[0]))


def tinker_engine(
    settings: EngineSettings, loading: Loading, config: LearnerConfig, ledger: Ledger | None
) -> TinkerEngine:
    """A session with the service, tried. Raises as `require_service`, and what a trial raises."""
    model, address = loading.model, address_of(settings, on_hub(loading.model.name)[0])
    bill = Bill(model=address.model, prices=settings.prices)
    bill = bill if ledger is None else replace(bill, ledger=ledger)
    if find_origin(model.source).adapter is not None:
        raise UserError(
            f"model.name = {model.name!r} is an adapter, and a Tinker service trains upon models: merge "
            'it into an ordinary model that the service offers, or use engine.kind = "local".'
        )
    texts = without_weights(model, moment=loading.moment, adapted=True)
    if not isinstance(texts, DecoderOnly):
        raise UserError(
            f"{model.name} is an encoder-decoder, and Tinker's interface is for decoder-only models: use "
            'engine.kind = "local".'
        )
    if loading.tools:
        texts.tell_tools(loading.tools)
    context = offered(address)
    service = session(address, bill)

    def adapter() -> Adapter:
        return Adapter(
            service=service, rank=model.rank, seed=loading.seed % 2**31, reduction=settings.reduction
        )

    weights, spoiled = adapter(), adapter()
    policy = tinker_policy(
        texts, service=service, weights=weights, at_once=settings.concurrency, context=context
    )
    try:
        trial = tried(replace(policy, weights=spoiled), spoiled, config)
    except BaseException:
        service.close()
        raise
    return TinkerEngine(replace(policy, apart=trial.apart), weights, notes=trial.notes)
