"""The gradient that a service adds up is that of our own loss on the same weights, for every loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refine_rl.engines.tinker import weights
from refine_rl.engines.tinker.engine import TinkerEngine
from refine_rl.engines.tinker.learner import TinkerLearner
from refine_rl.engines.tinker.weights import Adapter
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.policy.tokens import token_batch
from refine_rl.settings import ModelSettings
from refine_rl.training.check import Check
from refine_rl.training.grpo.learn import Loss
from refine_rl.training.learner import LearnerConfig, Objective
from refine_rl.training.rows import Row, length, micro_batch, micro_batches
from refine_rl.training.sft.rows import likelihood, rows_of, tokens_of
from refine_rl.types import Group, Prompt, Score, Segment, Trajectory
from tinker_server import TinkerServer

CONFIG = LearnerConfig(tokens=4096, allowed=9.0, max_grad_norm=0.0)
TEXTS = ("the cat and the dog", "say something short")
Gradients = dict[str, torch.Tensor]


class Watched(Adapter):
    """Keeps the gradient that the service was about to move along, and does not move."""

    def watch(self, server: TinkerServer) -> None:
        self.server = server

    def step(self, **how: Any) -> float | None:
        self.found = self.server.gradients(self.trainer().model_id)
        return super().step(**{**how, "rate": 0.0})


@dataclass(frozen=True, kw_only=True)
class Stale:
    """Groups that older weights sampled; the same weights as they are now at the service and here."""

    groups: Sequence[Group]
    server: TinkerServer
    adapter: Watched
    learner: TinkerLearner
    here: Policy

    def at_the_service(
        self, rows: Sequence[Row], objective: Objective, *, tokens: int = CONFIG.tokens
    ) -> tuple[Gradients, float | None]:
        learner = replace(self.learner, config=replace(CONFIG, tokens=tokens))
        learned = learner.learn(rows, objective, step=1, rate=0.1)
        return self.adapter.found, learned.loss

    def by_autograd(self, rows: Sequence[Row], objective: Objective) -> tuple[Gradients, float]:
        worked = [row for row in rows if row.teaches]
        batch = micro_batch(worked, torch.device("cpu"))
        parameters = self.here.trainable()
        sums = objective(self.here.logprobs(batch.tokens), batch, None)
        gradients = torch.autograd.grad(sums.loss, list(parameters.values()))
        names = [name.replace(".default", "") for name in parameters]
        return dict(zip(names, gradients, strict=True)), sums.loss.item()


def group(engine: TinkerEngine, text: str) -> Group:
    prompt = Prompt(id=text, split="train", messages=({"role": "user", "content": text},))
    members = begun(engine.policy.encode(prompt.messages), prompt, 4)
    purpose = Purpose(seed=3, step=1, name="rollout")
    ((_, said),) = engine.speaker.speak([members], sampling=Sampling(max_tokens=9), purpose=purpose)
    advantages = (1.2, -0.7, 0.3, -0.8)
    scores = tuple(Score(value=a, status="scored", breakdown={}, explanation="") for a in advantages)
    return Group(step=1, prompt=prompt, trajectories=said, scores=scores, advantages=advantages)


@pytest.fixture(scope="module")
def stale(
    model: Path,
    steady: TinkerServer,
    steady_engines: Callable[..., TinkerEngine],
    tmp_path_factory: pytest.TempPathFactory,
) -> Stale:
    engine = steady_engines(steady, model, config=CONFIG)
    groups = [group(engine, text) for text in TEXTS]
    learner = engine.learner(CONFIG)
    loss = Loss(name="grpo", clip_low=0.2, clip_high=0.2, max_tokens=9)
    for step in (1, 2):
        learner.learn(loss.rows(groups), loss.objective(0.0), step=step, rate=0.03)
    folder = tmp_path_factory.mktemp("adapter")
    engine.speaker.save(folder)
    here = load_policy(
        ModelSettings(name=str(model), rank=4, dtype="float32", device="cpu"), adapter_from=folder
    )
    adapter = Watched(service=engine.weights.service, rank=4, seed=0)
    adapter.restore(engine.weights.save("moved"), optimizer=False)
    adapter.watch(steady)
    check = Check(speaker=engine.speaker, allowed=9.0)
    return Stale(
        groups=groups,
        server=steady,
        adapter=adapter,
        learner=TinkerLearner(weights=adapter, check=check, config=CONFIG),
        here=here,
    )


def references(stale: Stale) -> dict[tuple[str, int], tuple[float, ...]]:
    trajectories = [t for g in stale.groups for t in g.trajectories]
    batch = token_batch(trajectories)
    with torch.no_grad(), stale.here.reference() as base:
        values = base.logprobs(batch, temperature=1.0)
    return {
        (t.prompt_id, t.member): tuple(values[row][batch.trainable[row]].tolist())
        for row, t in enumerate(trajectories)
    }


def require_same(found: Gradients, wanted: Gradients) -> None:
    assert found.keys() == wanted.keys()
    size = sum(float((w**2).sum()) for w in wanted.values()) ** 0.5
    apart = sum(float(((found[name] - w) ** 2).sum()) for name, w in wanted.items()) ** 0.5
    assert size > 1e-4
    assert apart < 1e-5 * size


def size(row: Row) -> int:
    return length(row.trajectory)


def asked(server: TinkerServer) -> list[Any]:
    """The requests with rows, whatever is wanted of them."""
    return [*server.asked("forward"), *server.asked("forward_backward")]


CASES: dict[str, tuple[Loss, float]] = {
    name: (Loss(name=name, clip_low=low, clip_high=high, max_tokens=9), 0.0)
    for name, low, high in (
        ("grpo", 0.2, 0.2),
        ("bnpo", 0.2, 0.2),
        ("dr_grpo", 0.2, 0.2),
        ("dapo", 0.2, 0.28),
        ("cispo", 1.0, 0.3),
        ("gspo", 0.03, 0.04),
        ("sapo", 0.2, 0.2),
        ("luspo", 0.03, 0.04),
        ("dppo_tv", 0.02, 0.02),
        ("dppo_kl", 0.01, 0.01),
    )
}
CASES["kl"] = (CASES["grpo"][0], 0.1)
CASES["cap"] = (replace(CASES["grpo"][0], importance_cap=1.5), 0.0)


@pytest.mark.parametrize("case", CASES)
def test_a_loss_has_its_own_gradient_at_the_service(stale: Stale, case: str) -> None:
    loss, kl = CASES[case]
    rows = loss.rows(stale.groups, references(stale) if kl else None)
    objective = loss.objective(kl)
    found, said = stale.at_the_service(rows, objective)
    wanted, here = stale.by_autograd(rows, objective)

    require_same(found, wanted)
    assert said == pytest.approx(here, abs=1e-6)
    # The rollouts are stale, so that clips and ratios matter.
    now = stale.here.logprobs(token_batch(stale.groups[0].trajectories)).detach()
    sampled = token_batch(stale.groups[0].trajectories).sampled
    old = torch.tensor([x for t in stale.groups[0].trajectories for x in t.segments[1].logprobs])
    assert float((now[sampled] - old).abs().mean()) > 0.1


def test_so_has_the_likelihood_of_answers_to_imitate(stale: Stale) -> None:
    rows = rows_of(
        [
            tokens
            for length in (3, 5)
            for tokens, _ in [
                tokens_of(
                    f"row:{length}",
                    [
                        Segment(token_ids=(5, 6, 7), trainable=False),
                        Segment(token_ids=tuple(range(20, 20 + length)), trainable=True, target=True),
                    ],
                    99,
                )
            ]
            if tokens is not None
        ]
    )
    found, loss = stale.at_the_service(rows, likelihood)
    wanted, here = stale.by_autograd(rows, likelihood)
    require_same(found, wanted)
    assert loss == pytest.approx(here, abs=1e-6)


def test_a_service_that_takes_means_gives_the_same_gradient(stale: Stale) -> None:
    loss, _ = CASES["grpo"]
    rows, objective = loss.rows(stale.groups), loss.objective(0.0)
    wanted, _ = stale.by_autograd(rows, objective)
    stale.server.manners.reduction = stale.adapter.reduction = "mean"
    try:
        found, _ = stale.at_the_service(rows, objective)
    finally:
        stale.server.manners.reduction = stale.adapter.reduction = "sum"
    require_same(found, wanted)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("case", ["grpo", "gspo", "kl", "cap"])
def test_micro_batches_add_up_to_the_same_gradient(stale: Stale, case: str, reduction: Any) -> None:
    """All of them are one request for the log-probs, and one for the gradient."""
    loss, kl = CASES[case]
    rows = loss.rows(stale.groups, references(stale) if kl else None)
    objective = loss.objective(kl)
    wanted, here = stale.by_autograd(rows, objective)
    tokens = 2 * max(map(size, rows))
    count = len(list(micro_batches([row.trajectory for row in rows], tokens)))
    before = len(asked(stale.server))
    stale.server.manners.reduction = stale.adapter.reduction = reduction
    try:
        found, said = stale.at_the_service(rows, objective, tokens=tokens)
    finally:
        stale.server.manners.reduction = stale.adapter.reduction = "sum"

    require_same(found, wanted)
    assert said == pytest.approx(here, abs=1e-6)
    assert count >= 4
    assert len(asked(stale.server)) == before + 2


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_more_rows_than_a_request_has_are_several(
    stale: Stale, reduction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their limits do not keep to micro-batches: a request ends within one."""
    monkeypatch.setattr(weights, "WHOLE", (3, 10_000))
    monkeypatch.setattr(weights, "OF_MEANS", (3, 10_000))
    loss, _ = CASES["grpo"]
    rows, objective = loss.rows(stale.groups), loss.objective(0.0)
    wanted, here = stale.by_autograd(rows, objective)
    before = len(asked(stale.server))
    stale.server.manners.reduction = stale.adapter.reduction = reduction
    try:
        found, said = stale.at_the_service(rows, objective, tokens=2 * max(map(size, rows)))
    finally:
        stale.server.manners.reduction = stale.adapter.reduction = "sum"
    require_same(found, wanted)
    assert said == pytest.approx(here, abs=1e-6)
    assert len(asked(stale.server)) == before + 2 * 3  # of eight rows


def test_log_probs_of_the_reference_are_the_base_models(stale: Stale) -> None:
    batch = token_batch([t for g in stale.groups for t in g.trajectories])
    speaker: Any = stale.learner.check.speaker
    with speaker.reference() as base:
        found = base.logprobs(batch, temperature=1.0)
    with torch.no_grad(), stale.here.reference() as here:
        assert torch.allclose(found, here.logprobs(batch, temperature=1.0), atol=1e-5)


def test_several_turns_are_rows_of_their_own_tokens(stale: Stale) -> None:
    """Given tokens between two sampled segments have no advantage, and come back as 0."""
    first = stale.groups[0].trajectories[0]
    more = (
        Segment(token_ids=(11, 12), trainable=False),
        Segment(token_ids=(13, 14), trainable=True, logprobs=(-1.0, -2.0)),
    )
    two = Trajectory(
        prompt_id="two",
        member=0,
        messages=first.messages,
        segments=(*first.segments, *more),
        stop_reason="stop",
    )
    rows = [Row(trajectory=two, advantage=0.5, weight=0.25)]
    objective = CASES["grpo"][0].objective(0.0)
    found, _ = stale.at_the_service(rows, objective)
    wanted, _ = stale.by_autograd(rows, objective)
    require_same(found, wanted)
