"""Self-distillation: what the policy says of its answers once it is shown more, against a plain twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from make import group, prompt, trajectory
from models import listening_model
from refine_rl.errors import UserError
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.tokens import token_batch
from refine_rl.rewards.build import build_reward
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training.grpo import itself
from refine_rl.training.grpo.itself import Itself, with_shown
from refine_rl.training.grpo.learn import Loss
from refine_rl.training.grpo.statistics import group_statistics
from refine_rl.training.rows import micro_batch
from refine_rl.types import Score, Segment, Taught, Trajectory

MakeModel = Callable[..., Path]
P = prompt(1, "say something about the cat")
SAID = ("a cat", "the dog is here", "so")


@pytest.fixture(scope="module", params=["decoder", "encoder-decoder"])
def policy(
    request: pytest.FixtureRequest, make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory
) -> Policy:
    if request.param == "decoder":
        folder = make_model("llama")
    else:
        folder = listening_model(tmp_path_factory.mktemp("bart"), "bart", max_position_embeddings=512)
    return load_policy(ModelSettings(name=str(folder), dtype="float32", device="cpu", rank=1))


def answered(policy: Policy) -> tuple[Trajectory, ...]:
    """Its log-probs of these answers are its own."""
    found = []
    for member, text in enumerate(SAID):
        ids = policy.encode_words(text)
        own = logprobs(policy, policy.encode(P.messages), ids)
        segments = (
            Segment(token_ids=policy.encode(P.messages), trainable=False),
            Segment(token_ids=ids, trainable=True, logprobs=tuple(own)),
        )
        found.append(trajectory(P, text, member=member, segments=segments))
    return tuple(found)


def logprobs(policy: Policy, before: tuple[int, ...], ids: tuple[int, ...]) -> list[float]:
    """Alone, as one text."""
    segments = (
        Segment(token_ids=before, trainable=False),
        Segment(token_ids=ids, trainable=True, logprobs=(0.0,) * len(ids)),
    )
    batch = token_batch([trajectory(P, segments=segments)])
    with torch.no_grad():
        found = policy.logprobs(batch, temperature=1.0)
    return [float(x) for x in found[batch.trainable]]


def test_it_says_what_it_would_behind_the_longer_prompt(policy: Policy) -> None:
    members, told = answered(policy), list[str]()
    scores = (
        Score(value=0.5, explanation="too short"),
        Score(value=1.0),
        Score.missing("the judge did not answer"),
    )
    for kind, texts in (("reason", ["too short", "", ""]), ("best", [SAID[1], "", ""])):
        ask = Itself(speaker=policy, shown=kind, tokens=64, tell=told.append)
        other = (prompt(2), members[2:], scores[2:])
        found, none = ask([(P, members, scores), other])
        assert [None if its is None else its.shown for its in found] == [text or None for text in texts]
        assert none == (None,)
        longer = policy.encode(with_shown(P.messages, kind, texts[0]))
        plain = logprobs(policy, longer, members[0].segments[1].token_ids)
        assert found[0] is not None
        assert found[0].logprobs == pytest.approx(plain, abs=1e-5)
        assert found[0].logprobs != pytest.approx(members[0].segments[1].logprobs, abs=1e-5)
    assert told == []


def test_nothing_new_in_the_prompt_teaches_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itself, "_text", lambda kind: "")
    members = answered(policy)
    scores = [Score(value=0.5, explanation="so-so")] * 3
    (found,) = Itself(speaker=policy, shown="reason", tokens=64, tell=print)([(P, members, tuple(scores))])
    for t, its in zip(members, found, strict=True):
        assert its is not None
        assert its.logprobs == pytest.approx(t.segments[1].logprobs, abs=1e-5)


def test_what_the_model_cannot_read_is_left_out_and_told(policy: Policy) -> None:
    members, told = answered(policy), list[str]()
    scores = (Score(value=1.0, explanation="cat " * 3000), Score(value=1.0, explanation="good"))
    ask = Itself(speaker=policy, shown="reason", tokens=64, tell=told.append)
    (found,) = ask([(P, members[:2], scores)])
    assert [its is not None for its in found] == [False, True]
    assert len(told) == 1
    assert told[0].startswith("answer 0 to p1 is not taught: with what it is shown")


def test_an_answer_that_is_not_taught_keeps_its_advantage_whole() -> None:
    members = [trajectory(P, member=m, tokens=2, logprob=-1.0) for m in range(3)]
    taught = (Taught(logprobs=(-0.5, -3.0), shown="b"), None, None)
    it = group(P, 0.0, 1.0, None, trajectories=members, advantages=(-0.5, 0.5, None), taught=taught)
    how = Loss(name="dapo", clip_low=0.2, clip_high=0.2, max_tokens=8, teacher_share=0.25)
    rows = how.rows([it])
    assert [r.trajectory.member for r in rows] == [0, 1]
    batch = micro_batch(rows, torch.device("cpu"))
    new = batch.old_B_T.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(how.objective(0.0)(new, batch, None).loss, new)
    # -A / 4 of the four tokens: 0.75 * -0.5 + 0.25 * (0.5, -2), and 0.5 whole
    assert (-4 * slopes[batch.tokens.sampled]).tolist() == pytest.approx([-0.25, -0.875, 0.5, 0.5])
    assert group_statistics([it])["teacher_kl"] == pytest.approx((-0.5 + 2.0) / 2)


def test_it_needs_a_reward_and_does_not_sample_ahead() -> None:
    own = {"task": "x", "teacher": {"model": "self", "shown": "reason"}}
    with pytest.raises(UserError, match="nothing says what is good"):
        build_reward(Settings.model_validate(own))
    judged = {"reward": {"judges": ["ollama/a"]}}
    assert Settings.model_validate({"task": "x", **judged}).ahead
    assert not Settings.model_validate({**own, **judged}).ahead
