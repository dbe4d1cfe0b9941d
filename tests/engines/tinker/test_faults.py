"""What a service may do wrong: each is named, before or while it trains, and nothing wrong is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refine_rl.engines.tinker import service as services
from refine_rl.engines.tinker.engine import TinkerEngine
from refine_rl.engines.tinker.learner import STATE
from refine_rl.errors import GuardStop, Interrupted, MachineError, SettingsError, UserError
from refine_rl.llm.client import Call
from refine_rl.llm.ledger import Ledger
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.policy.tokens import token_batch
from refine_rl.settings import EnginePrices, ModelSettings
from refine_rl.training.checkpoint import Position, check, load
from refine_rl.training.grpo.learn import Loss
from refine_rl.training.learner import LearnerConfig
from refine_rl.training.passes import Passes
from refine_rl.types import Group, Prompt, Score
from tinker_server import KEY, TinkerServer

CONFIG = LearnerConfig(tokens=4096)
LOSS = Loss(name="grpo", clip_low=0.2, clip_high=0.2, max_tokens=8)
PROMPT = Prompt(id="p1", split="train", messages=({"role": "user", "content": "say something short"},))
ADVANTAGES = (1.0, -0.5, 0.25, -0.75)

Make = Callable[..., TinkerEngine]


@pytest.fixture
def server(model: Path, tinker_server: Callable[..., TinkerServer]) -> TinkerServer:
    return tinker_server(model)


@pytest.fixture(scope="module")
def engine(steady_engines: Make, steady: TinkerServer, model: Path) -> TinkerEngine:
    return steady_engines(steady, model)


def sampled(engine: TinkerEngine, step: int = 1, pause: Callable[[], None] = lambda: None) -> Group:
    members = begun(engine.policy.encode(PROMPT.messages), PROMPT, 4)
    purpose = Purpose(seed=3, step=step, name="rollout")
    ((_, said),) = engine.speaker.speak(
        [members], sampling=Sampling(max_tokens=8), purpose=purpose, pause=pause
    )
    scores = tuple(Score(value=a, status="scored", breakdown={}, explanation="") for a in ADVANTAGES)
    return Group(step=step, prompt=PROMPT, trajectories=said, scores=scores, advantages=ADVANTAGES)


def learn(engine: TinkerEngine, group: Group, *, step: int = 1, rate: float = 0.05, updates: int = 1) -> Any:
    learner = engine.learner(CONFIG)
    objective = LOSS.objective(0.0)
    return learner.learn(LOSS.rows([group]), objective, step=step, rate=rate, passes=Passes(updates=updates))


# What is drawn


def test_a_group_is_one_request_and_its_draws_follow_from_what_they_are_for(engine: TinkerEngine) -> None:
    first, again, other = sampled(engine), sampled(engine), sampled(engine, step=2)
    assert first.trajectories == again.trajectories
    assert first.trajectories != other.trajectories
    assert len({t.segments[1].token_ids for t in first.trajectories}) > 1
    for member, t in enumerate(first.trajectories):
        (given, said) = t.segments
        assert (t.member, given.token_ids) == (member, engine.policy.encode(PROMPT.messages))
        assert (t.stop_reason == "stop") == (said.token_ids[-1] in engine.policy.stop_ids)
        assert len(said.token_ids) == 8 or t.stop_reason == "stop"


def test_members_that_have_parted_go_on_behind_their_own_tokens(engine: TinkerEngine) -> None:
    words = engine.policy.encode_words("the cat")
    members = begun(engine.policy.encode(PROMPT.messages), PROMPT, 3)
    segment = replace(members[0].segments[0], token_ids=words, trainable=False)
    ahead = replace(members[1], segments=(*members[1].segments, segment))
    purpose = Purpose(seed=3, step=1, name="rollout")
    some = list(
        engine.speaker.speak(
            [(), (members[0], ahead, members[2])], sampling=Sampling(max_tokens=4), purpose=purpose
        )
    )
    assert some[0] == (0, ())
    (_, group) = some[1]
    assert [len(t.segments) for t in group] == [2, 3, 2]
    assert group[1].segments[1].token_ids == words
    assert group[1].completion.startswith("the cat")


def test_log_probs_are_the_trainers(engine: TinkerEngine) -> None:
    group = sampled(engine)
    batch = token_batch(group.trajectories)
    old = torch.tensor([x for t in group.trajectories for x in t.segments[1].logprobs])
    found = engine.speaker.logprobs(batch, temperature=1.0)[batch.sampled]
    assert torch.allclose(found, old, atol=1e-5)
    with pytest.raises(ValueError, match="temperature 1 alone"):
        engine.speaker.logprobs(batch, temperature=0.7)


# At the start


def test_what_it_offers_is_looked_at_before_a_session_begins(
    engines: Make, server: TinkerServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.manners.name = "Qwen/Qwen3-8B"
    with pytest.raises(UserError, match="does not offer the model 'another'; it has 'Qwen/Qwen3-8B'"):
        engines(_renamed(server, "another"), model)
    server.manners.keys = ("tml-another",)
    with pytest.raises(UserError, match=r"TINKER_API_KEY \(engine.key_env\)") as caught:
        engines(server, model)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("MY_KEY", "sk-1")
    with pytest.raises(UserError, match='"tml-"'):
        engines(server, model, key_env="MY_KEY")
    with pytest.raises(UserError, match="environment variable NO_KEY"):
        engines(server, model, key_env="NO_KEY")
    assert not server.asked("create_session")
    server.vanish()
    with pytest.raises(MachineError, match=r"engine\.base_url: nobody answers at http://127"):
        engines(server, model)


def _renamed(server: TinkerServer, name: str) -> Any:
    class Other:
        url, manners = server.url, replace(server.manners, name=name)

    return Other


@pytest.mark.parametrize("sampler", ["other", "text"])
def test_a_sampler_of_other_weights_or_words_is_found_at_the_start(
    engines: Make, server: TinkerServer, model: Path, sampler: str
) -> None:
    if sampler == "text":
        server.manners.through_text = True
    else:
        server.manners.sampler = "other"
    with pytest.raises((GuardStop, MachineError), match=r"disagree by \d|Sampling: ") as caught:
        engines(server, model)
    assert "Nothing was trained" in str(caught.value) or "does not speak" in str(caught.value)


def test_its_reduction_and_its_clipping_are_tried(engines: Make, server: TinkerServer, model: Path) -> None:
    server.manners.reduction = "mean"
    with pytest.raises(SettingsError, match=r'Set engine\.reduction = "mean"'):
        engines(server, model)
    engine = engines(server, model, reduction="mean")
    assert not any("ignores the bound" in note for note in engine.notes)
    assert engine.speaker.tolerance == 1e-4
    server.manners.clips = False
    assert any("ignores the bound" in note for note in engines(server, model, reduction="mean").notes)


# While it trains


def test_a_stale_sampler_is_found_before_a_gradient(engines: Make, server: TinkerServer, model: Path) -> None:
    engine = engines(server, model)
    group = sampled(engine)  # what it is stale at
    server.manners.sampler = "stale"
    learn(engine, group)
    before = len(server.asked("optim_step"))
    with pytest.raises(GuardStop, match=r"Step 2: sampler and trainer disagree.*\n?.*untrained weights"):
        learn(engine, sampled(engine, step=2), step=2)
    assert len(server.asked("optim_step")) == before
    assert engine.learner(CONFIG).whole


def test_a_request_that_is_sent_again_counts_once(engines: Make, server: TinkerServer, model: Path) -> None:
    engine = engines(server, model)
    group = sampled(engine)
    for path in ("asample", "forward_backward", "optim_step", "save_weights_for_sampler"):
        server.cut(path, when="after")
        server.fail(path, status=503, after=1)
    learn(engine, group)
    state = server.state(engine.weights.trainer().model_id)

    other = engines(server, model)
    learn(other, group)
    assert all(
        torch.equal(value, state[name])
        for name, value in server.state(other.weights.trainer().model_id).items()
    )


@pytest.mark.parametrize("path", ["forward_backward", "optim_step", "asample"])
def test_a_failure_in_the_middle_stops_and_keeps_nothing_half_done(
    engines: Make, server: TinkerServer, model: Path, tmp_path: Path, path: str
) -> None:
    engine = engines(server, model)
    group = sampled(engine)
    learner = engine.learner(CONFIG)
    server.break_promise(path, "out of memory")
    with pytest.raises(MachineError, match=r"(Sampling|log-probs|gradient|optimizer).*out of memory"):
        learn(engine, sampled(engine, step=2) if path == "asample" else group)
    assert not learner.whole
    with pytest.raises(MachineError, match="not those of a whole step"):
        learner.save(tmp_path, Position(step=1))
    assert not list(tmp_path.iterdir())


def test_a_service_that_goes_away_is_noticed(
    engines: Make, server: TinkerServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "EVERY", 0.02)
    engine = engines(server, model)
    group = sampled(engine)
    server.vanish()
    with pytest.raises(MachineError, match="cannot be reached any more"):
        learn(engine, group)
    assert not engine.learner(CONFIG).whole


def test_an_answer_that_never_comes_ends_after_the_time_out(
    engines: Make, server: TinkerServer, model: Path
) -> None:
    engine = engines(server, model)
    engine.weights.service.address = replace(engine.weights.service.address, timeout=0.5)
    over = threading.Event()
    server.hold("asample", over.wait)
    with pytest.raises(MachineError, match=r"did not answer in 0\.5 seconds \(engine\.timeout\)"):
        sampled(engine)
    over.set()


def test_ctrl_c_is_heard_while_it_samples(engines: Make, server: TinkerServer, model: Path) -> None:
    engine = engines(server, model)
    over = threading.Event()
    server.hold("asample", over.wait)

    def pause() -> None:
        raise Interrupted("Interrupted.")

    with pytest.raises(Interrupted):
        sampled(engine, pause=pause)
    over.set()
    assert engine.learner(CONFIG).whole


def test_several_updates_are_whole_after_the_last(engines: Make, steady: TinkerServer, model: Path) -> None:
    engine = engines(steady, model)
    before = len(steady.asked("optim_step"))
    learned = learn(engine, sampled(engine), updates=2)
    assert len(steady.asked("optim_step")) == before + 2
    assert engine.learner(CONFIG).whole
    assert learned.grad_norm > 0


def test_minibatches_are_steps_of_their_own_and_a_stop_leaves_whole_weights(
    engines: Make, steady: TinkerServer, model: Path
) -> None:
    engine = engines(steady, model)
    one = sampled(engine)
    renamed = tuple(replace(t, prompt_id="p2") for t in sampled(engine, step=2).trajectories)
    other = replace(one, prompt=replace(PROMPT, id="p2"), trajectories=renamed)
    start, rows = engine.weights.save("start"), LOSS.rows([one, other])
    objective, learner = LOSS.objective(0.0), engine.learner(CONFIG)
    batch = token_batch([*one.trajectories, *other.trajectories])

    def now() -> torch.Tensor:
        return engine.speaker.logprobs(batch, temperature=1.0)

    passes = Passes(minibatches=2, updates=2, weigh=LOSS.weighed)
    told = learner.learn(rows, objective, step=1, rate=0.01, passes=passes)
    moved = now()
    assert (told.updates, learner.whole) == (4, True)
    engine.weights.restore(start, optimizer=True)
    for own in passes.batches(rows, 1):
        learner.learn(own, objective, step=1, rate=0.01, seen=torch.zeros(1))
    assert torch.allclose(now(), moved, atol=1e-5)

    engine.weights.restore(start, optimizer=True)
    before = len(steady.asked("optim_step"))
    stopping = replace(passes, kl_stop=1e-9)
    told = learner.learn(rows, objective, step=1, rate=0.01, passes=stopping)
    # The first optimizer step is never left out.
    assert (told.updates, learner.whole) == (1, True)
    assert told.moved is not None
    assert told.moved > 1e-9
    assert len(steady.asked("optim_step")) == before + 1


# What is kept


def test_a_checkpoint_is_the_services_state(
    engines: Make, server: TinkerServer, model: Path, tmp_path: Path
) -> None:
    engine, folders = engines(server, model), [tmp_path / "a", tmp_path / "b"]
    learn(engine, sampled(engine))
    for folder in folders:
        folder.mkdir()
    engine.learner(CONFIG).save(folders[0], Position(step=1))
    assert check(folders[0]) == Position(step=1)
    group = sampled(engine, step=2)
    learn(engine, group, step=2)
    went = server.state(engine.weights.trainer().model_id)

    other = engines(server, model)
    assert other.learner(CONFIG).load(folders[0]) == Position(step=1)
    assert sampled(other, step=2).trajectories == group.trajectories
    learn(other, group, step=2)
    again = server.state(other.weights.trainer().model_id)
    assert all(torch.equal(value, again[name]) for name, value in went.items())

    other.take(folders[0])
    other.speaker.save(folders[1])
    plain = ModelSettings(name=str(model), rank=4, dtype="float32", device="cpu")
    here = load_policy(plain, adapter_from=folders[1])
    batch = token_batch(group.trajectories)
    found = other.speaker.logprobs(batch, temperature=1.0)
    assert torch.allclose(here.logprobs(batch), found, atol=1e-5)
    with pytest.raises(UserError, match="holds no weights: a service keeps them"):
        load(folders[0], here)

    record = json.loads((folders[0] / STATE).read_text())
    (tmp_path / "gone").mkdir()
    engine.learner(CONFIG).save(tmp_path / "gone", Position(step=2))
    text = (tmp_path / "gone" / STATE).read_text().replace("step-000002", "step-000009")
    assert record["state"].endswith("/weights/step-000001")
    (tmp_path / "gone" / STATE).write_text(text)
    engine.learner(CONFIG).check.require_match(group.trajectories, torch.zeros(1), 2)
    with pytest.raises(UserError, match="is not what was written"):
        other.learner(CONFIG).load(tmp_path / "gone")
    with pytest.raises(UserError, match=r"has no state tinker://.*--from-step 0"):
        other.weights.restore(json.loads(text)["state"], optimizer=True)


def test_a_state_goes_with_its_checkpoint(
    engines: Make, server: TinkerServer, model: Path, tmp_path: Path
) -> None:
    engine = engines(server, model)
    learn(engine, sampled(engine))
    learner = engine.learner(CONFIG)
    folders = [tmp_path / f"step-00000{step}" for step in (1, 2, 3, 4)]
    for step, folder in enumerate(folders, 1):
        folder.mkdir()
        learner.save(folder, Position(step=step))
    paths = [json.loads((folder / STATE).read_text())["state"] for folder in folders]
    assert all(server.service.store.info(path)["lora_rank"] == 4 for path in paths)
    (folders[0] / STATE).unlink()  # gone back on, and set aside: the learner is not told
    folders[1].rename(tmp_path / "step-000002.damaged")
    for _ in range(2):  # what is not there any more is not asked for again
        learner.keep_only(folders[2:])
    for path in paths[:2]:
        with pytest.raises(Exception, match="no checkpoint"):
            server.service.store.info(path)
    assert all(server.service.store.info(path)["lora_rank"] == 4 for path in paths[2:])
    (folders[2] / STATE).write_text("cut")
    learner.keep_only(folders[2:])  # nobody knows what it needs
    assert server.service.store.info(paths[2])["lora_rank"] == 4


def test_an_adapter_comes_in_an_archive_where_there_is_no_other_way(
    engines: Make, server: TinkerServer, model: Path, tmp_path: Path
) -> None:
    engine = engines(server, model)
    learn(engine, sampled(engine))
    server.manners.external = server.manners.modules_named = False
    engine.speaker.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert config["base_model_name_or_path"] == str(model)
    assert (tmp_path / "tokenizer.json").is_file()
    load_policy(ModelSettings(name=str(model), rank=4, dtype="float32"), adapter_from=tmp_path)


# What it costs


def test_calls_are_billed_and_the_cap_stops_them(engines: Make, steady: TinkerServer, model: Path) -> None:
    lines: list[Call] = []
    ledger = Ledger(lines.append)
    prices = EnginePrices(prefill=1.0, sample=10.0, train=100.0)
    engine = engines(steady, model, ledger=ledger, prices=prices)
    del lines[:]
    group = sampled(engine)
    prompt = len(group.trajectories[0].segments[0].token_ids)
    written = sum(t.completion_tokens for t in group.trajectories)
    learn(engine, group)

    every = 4 * prompt + written
    assert [(c.purpose, c.tokens_in, c.tokens_out) for c in lines] == [
        ("sample", prompt, written),
        ("forward", every, 0),
        ("update", every, 0),
    ]
    wanted = [prompt + 10 * written, every, 100 * every]
    assert [c.cost_usd for c in lines] == [pytest.approx(w / 1e6) for w in wanted]
    assert lines[0].about == "p1"

    ledger.dollars = ledger.known_usd
    with pytest.raises(GuardStop, match=r"budget\.dollars"):
        sampled(engine)
    assert len(lines) == 3
