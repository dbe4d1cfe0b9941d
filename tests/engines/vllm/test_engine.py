"""The engine against a server that serves its model, and against servers that do something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from make import prompt
from refine_rl.engines.base import Loading
from refine_rl.engines.vllm.engine import VllmEngine, vllm_engine
from refine_rl.errors import GuardStop, Interrupted, MachineError, RefineError, UserError
from refine_rl.llm.client import EndpointRefused
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.progress import never
from refine_rl.settings import EngineSettings, ModelSettings
from refine_rl.training.check import difference
from refine_rl.training.learner import LearnerConfig
from refine_rl.types import Segment, Trajectory
from vllm_server import VllmServer

MakeModel = Callable[..., Path]
Serve = Callable[..., VllmServer]
Engine = Callable[..., VllmEngine]
Both = tuple[VllmEngine, VllmServer]

CAT, DOG = prompt(1, "say something about the cat"), prompt(2, "hello dog")


def meet(
    model: Path, base_url: str, *, temperature: float = 1.0, allowed: float | None = None, **keys: Any
) -> VllmEngine:
    """An engine that has met the server there; `keys` are those of [engine] and [model]."""
    own = {k: keys.pop(k) for k in list(keys) if k in EngineSettings.model_fields}
    loading = Loading(
        model=ModelSettings(**{"name": str(model), "rank": 4, "device": "cpu", "dtype": "float32", **keys}),
        seed=0,
        adapter_from=None,
        keep_reference=False,
        moment=datetime(2026, 1, 1),
    )
    settings = EngineSettings(**{"kind": "vllm", "base_url": base_url, **own})
    return vllm_engine(settings, loading, LearnerConfig(tokens=512, temperature=temperature, allowed=allowed))


@pytest.fixture
def engine(make_model: MakeModel) -> Iterator[Engine]:
    """engine(server, **keys) -> an engine of that server alone."""
    made: list[VllmEngine] = []

    def of(server: VllmServer, **keys: Any) -> VllmEngine:
        made.append(meet(make_model(), server.base_url, **keys))
        return made[-1]

    yield of
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def met(make_model: MakeModel) -> Iterator[Both]:
    server = VllmServer(make_model())
    one = meet(make_model(), server.base_url)
    yield one, server
    one.close()
    server.stop()


@pytest.fixture
def both(met: Both) -> Iterator[Both]:
    """An engine and its server, which many tests share: weights that were moved, no fault, nothing asked."""
    one, server = met
    with torch.no_grad():  # moved on and on, its log-probs would come to differ by more than rounding
        for weight in one.policy.trainable().values():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) / 20)
    move(one)
    said(one)
    server.requests.clear()
    server.most_at_once = 0
    yield one, server
    server.fault, server.wrong = lambda path, number: "", ""


def move(engine: VllmEngine, by: float = 0.05, seed: int = 1) -> None:
    """As an update does, and further."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in engine.policy.trainable().values():
            weight.add_(by * torch.randn(weight.shape, generator=draws))


def said(
    engine: VllmEngine, *, step: int = 1, members: int = 3, pause: Any = never, **how: Any
) -> list[tuple[Trajectory, ...]]:
    """What the speaker answers to two prompts."""
    policy = engine.policy
    groups = [begun(policy.encode(p.messages), p, members) for p in (CAT, DOG)]
    sampling = Sampling(**{"max_tokens": 8, **how})
    found = dict(
        engine.speaker.speak(
            groups, sampling=sampling, purpose=Purpose(seed=0, step=step, name="rollout"), pause=pause
        )
    )
    return [found[0], found[1]]


def test_what_is_sampled_there_has_the_log_probs_of_here(
    make_model: MakeModel, serve: Serve, engine: Engine
) -> None:
    one = engine(server := serve(make_model()))
    assert any("differ by" in note for note in one.notes)
    assert one.speaker.context_length == 256
    first = said(one)
    move(one)
    second = said(one)
    for groups, sampled in ((first, 1), (second, 2)):
        for p, group in zip((CAT, DOG), groups, strict=True):
            assert [t.member for t in group] == [0, 1, 2]
            assert {t.segments[0].token_ids for t in group} == {one.policy.encode(p.messages)}
            assert all(t.prompt_id == p.id and t.messages[:-1] == p.messages for t in group)
        every = [t for group in groups for t in group]
        assert len({t.segments[1].token_ids for t in every}) > 3, sampled
    assert float(difference(one.policy, [t for g in second for t in g], 1.0).max()) < 1e-4
    assert float(difference(one.policy, [t for g in first for t in g], 1.0).mean()) > 0.1
    # Nothing is loaded twice, and what is over is let go of.
    loads = [body["lora_name"] for body in server.asked("/v1/load_lora_adapter")]
    assert len(loads) == len(set(loads)) == 4  # twice when it was met
    assert list(server.adapters) == loads[-1:]
    one.close()
    assert server.adapters == {}


def test_requests_say_everything_and_are_seeded(both: Both) -> None:
    one, server = both
    again = [said(one, step=3, temperature=1.0) for _ in range(2)]
    assert again[0] == again[1]  # this server draws the same where it is asked the same
    assert said(one, step=4) != again[0]
    bodies = server.asked("/v1/completions")[-2:]
    for body in bodies:
        assert body["n"] == 3
        assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, 0, 0.0)
        assert body["repetition_penalty"] == 1.0
        assert body["stop_token_ids"] == sorted(one.policy.stop_ids)
        assert body["ignore_eos"] is True
        assert body["model"] == one.speaker.adapters.name
    assert len({body["seed"] for body in bodies}) == 2


def test_greedy_answers_are_those_of_this_process(both: Both) -> None:
    one, _ = both
    there = said(one, temperature=0.0)
    groups = [begun(one.policy.encode(p.messages), p, 3) for p in (CAT, DOG)]
    here = dict(
        one.policy.speak(
            groups,
            sampling=Sampling(max_tokens=8, temperature=0.0),
            purpose=Purpose(seed=0, step=1, name="rollout"),
        )
    )
    for place, group in enumerate(there):
        for one_, other in zip(group, here[place], strict=True):
            assert one_.segments[1].token_ids == other.segments[1].token_ids
            assert one_.segments[1].logprobs == pytest.approx(other.segments[1].logprobs, abs=1e-4)
            assert (one_.messages, one_.stop_reason) == (other.messages, other.stop_reason)


def test_a_turn_goes_on_from_all_that_stands(both: Both) -> None:
    one, server = both
    ids = one.policy.encode(CAT.messages)
    behind = tuple(
        replace(b, segments=(*b.segments, Segment(token_ids=(10 + b.member // 2,), trainable=False)))
        for b in begun(ids, CAT, 3)
    )
    [(place, group)] = one.speaker.speak(
        [behind],
        sampling=Sampling(max_tokens=4),
        purpose=Purpose(seed=0, step=1, name="rollout"),
    )
    assert place == 0
    assert [t.segments[:2] for t in group] == [b.segments for b in behind]
    asked = server.asked("/v1/completions")[-2:]
    assert sorted((body["prompt"], body["n"]) for body in asked) == [
        ([*ids, 10], 2),  # those who have said the same are one request
        ([*ids, 11], 1),
    ]


def test_no_more_than_so_many_prompts_are_asked_at_once(
    make_model: MakeModel, serve: Serve, engine: Engine
) -> None:
    one = engine(server := serve(make_model()), concurrency=2)
    said(one)  # the adapter is there
    server.most_at_once = 0
    second = threading.Event()

    def hold(path: str, number: int) -> str:
        """The first request stays under way until there is another."""
        if server.most_at_once > 1:
            second.set()
        second.wait(60.0)
        return ""

    server.fault = hold
    groups = [begun(one.policy.encode(CAT.messages), prompt(n, "cat"), 2) for n in range(7)]
    purpose = Purpose(seed=0, step=1, name="rollout")
    found = list(one.speaker.speak(groups, sampling=Sampling(max_tokens=3), purpose=purpose))
    assert sorted(place for place, _ in found) == list(range(7))
    assert server.most_at_once == 2


def test_a_pause_leaves_early(both: Both) -> None:
    one, _ = both

    def stop() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        said(one, pause=stop)
    assert len(said(one)) == 2  # and the engine goes on


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_other_temperatures_need_log_probs_of_what_is_drawn_from(
    mode: str, make_model: MakeModel, serve: Serve, engine: Engine
) -> None:
    server = serve(make_model(), logprobs_mode=mode)
    if mode == "raw_logprobs":
        with pytest.raises(UserError, match=r"rollout.temperature = 0.7.*\n.*--logprobs-mode processed_log"):
            engine(server, temperature=0.7)
        one = engine(server)
        assert float(difference(one.policy, said(one, top_k=5)[0], 1.0).max()) < 1e-4  # those of all tokens
        return
    one = engine(server, temperature=0.7)
    move(one)
    assert float(difference(one.policy, said(one, temperature=0.7)[0], 0.7).max()) < 1e-4
    with pytest.raises(UserError, match=r"top_p and rollout\.top_k"):
        said(one, top_k=5)


def test_an_older_servers_tokens_are_ids_in_words(
    make_model: MakeModel, serve: Serve, engine: Engine
) -> None:
    one = engine(serve(make_model(), fault=lambda path, number: "old"))
    assert float(difference(one.policy, said(one)[0], 1.0).max()) < 1e-4


def test_the_adapter_that_a_model_comes_with_is_part_of_what_is_served(
    make_model: MakeModel, serve: Serve, engine: Engine, tmp_path: Path
) -> None:
    first = engine(serve(make_model()))
    move(first)
    first.policy.save(tmp_path / "tuned")
    one = engine(server := serve(make_model()), name=str(tmp_path / "tuned"), rank=2, alpha=5.0)
    assert "--max-lora-rank 8 " in one.speaker.adapters.server.start  # both side by side
    move(one, seed=2)
    assert float(difference(one.policy, said(one)[0], 1.0).max()) < 1e-4
    server.max_lora_rank = 4
    with pytest.raises(UserError, match="LoRA rank 6 is greater than max_lora_rank 4"):
        engine(server, name=str(tmp_path / "tuned"), rank=2)


WRONG_AT_THE_START: dict[str, tuple[dict[str, Any], dict[str, Any], type[RefineError], str]] = {
    "no-lora": (
        {"runtime_updating": False},
        {},
        UserError,
        r"(?s)takes no adapters while it runs.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve",
    ),
    "no-enable": ({"enable_lora": False}, {}, UserError, "LoRA is not enabled(?s:.*)--enable-lora"),
    "rank": ({"max_lora_rank": 2}, {}, UserError, "rank 4 is greater than(?s:.*)--max-lora-rank 8 "),
    "folder": ({}, {"elsewhere": True}, UserError, "does not see .* engine.adapter_folder"),
    "key": ({"key": "secret"}, {}, EndpointRefused, r"wants a key: Unauthorized .*engine.key_env = "),
    "several": ({"names": ("a", "b"), "roots": ("x", "y")}, {}, UserError, "serves a, b, and none of them"),
    "text": ({"fault": lambda path, n: "text"}, {}, MachineError, "text in place of token ids"),
    "page": ({"fault": lambda path, n: "page"}, {}, MachineError, "names no model"),
}


@pytest.mark.parametrize("case", [*WRONG_AT_THE_START])
def test_a_server_that_will_not_do_is_refused_before_anything_is_trained(
    case: str, make_model: MakeModel, serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, keys, error, text = WRONG_AT_THE_START[case]
    how = dict(how)
    roots = how.pop("roots", None)
    server = serve(make_model(), **how)
    if roots:
        cards = [{"id": n, "root": r, "parent": None} for n, r in zip(server.names, roots, strict=True)]
        monkeypatch.setattr(server, "_found", lambda path, body: {"object": "list", "data": cards})
    if keys.get("elsewhere"):  # as in a container that does not have the folder
        load = server._load
        monkeypatch.setattr(
            server, "_load", lambda body: load({**body, "lora_path": "/elsewhere" + body["lora_path"]})
        )
    with pytest.raises(error, match=text):
        engine(server)


def test_a_key_is_sent_and_never_shown(
    make_model: MakeModel, serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(make_model(), key="secret")
    monkeypatch.setenv("SERVED_KEY", "secret")
    one = engine(server, key_env="SERVED_KEY")
    assert len(said(one)) == 2
    assert '--api-key "$SERVED_KEY"' in one.speaker.adapters.server.start
    monkeypatch.setenv("SERVED_KEY", "wrong")
    with pytest.raises(
        EndpointRefused, match="Check the key in the environment variable SERVED_KEY"
    ) as found:
        engine(server, key_env="SERVED_KEY")
    assert "wrong" not in str(found.value).replace("wrong answer", "")


def test_another_model_is_told_by_its_log_probs_and_its_tokens(
    make_model: MakeModel, serve: Serve, engine: Engine, tmp_path: Path
) -> None:
    import transformers
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    transformers.AutoTokenizer.from_pretrained(make_model()).save_pretrained(folder)
    transformers.AutoModelForCausalLM.from_pretrained(make_model()).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    server = serve(folder)
    with pytest.raises(UserError, match=r"log-probs differ from those of .* by 0\.\d+ nats(?s:.*)vllm serve"):
        engine(server)
    assert len(said(engine(server, allowed=5.0))) == 2  # whoever wants it so

    tokenizer = transformers.AutoTokenizer.from_pretrained(make_model("gpt2", chat=False))
    tokenizer.add_tokens(["quick"])
    tokenizer.save_pretrained(tmp_path / "words")
    with pytest.raises(UserError, match="in other tokens than"):
        engine(serve(make_model(), tokenizer=tmp_path / "words"))


def test_no_server_at_all(make_model: MakeModel, serve: Serve, engine: Engine) -> None:
    server = serve(make_model())
    server.stop()
    with pytest.raises(
        MachineError, match=r"gives no reply: .*3 attempts(?s:.*)This command starts it:\nVLLM_"
    ):
        engine(server)


@pytest.mark.parametrize("wrong", ["base", "half"])
def test_an_adapter_of_random_weights_must_have_its_effect(
    wrong: str, make_model: MakeModel, serve: Serve, engine: Engine
) -> None:
    server = serve(make_model())
    server.wrong = wrong
    with pytest.raises(UserError, match="one of random weights moves log-probs by"):
        engine(server)


@pytest.mark.parametrize("by", [0.05, 3e-4])
@pytest.mark.parametrize("wrong", ["stale", "half", "base"])
def test_weights_that_are_not_those_of_here_stop_the_run(wrong: str, by: float, both: Both) -> None:
    one, server = both
    before = list(server.adapters)
    server.wrong = wrong
    move(one, by, seed=2)
    with pytest.raises(GuardStop, match="does not answer by the weights that it was given") as found:
        said(one)
    assert found.value.guard == "mismatch"
    if wrong == "stale":
        assert "those before the update" in str(found.value)
    assert list(server.adapters) == before
    server.wrong = ""
    said(one)  # another name, and it goes on
    assert list(server.adapters) == [one.speaker.adapters.name] != before


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("text", "text in place of token ids"),
        ("no-logprobs", "no log-probs, which were asked for"),
        ("another-prompt", "another prompt than it was sent"),
        ("another-name", "'other' answered, and 'refine-"),
        ("one-less", "2 completions where 3 were asked for"),
        ("cut", "1 tokens with|cut before its end"),
        ("odd-token", "the token 1000000"),
        ("odd-logprob", r"the log-prob 3\.5"),
        ("page", "a web page"),
    ],
)
def test_an_answer_that_is_none_stops_the_run(fault: str, text: str, both: Both) -> None:
    one, server = both
    server.fault = lambda path, number: fault if path == "/v1/completions" else ""
    with pytest.raises(MachineError, match=text):
        said(one, max_tokens=6)


def test_what_passes_is_asked_again(both: Both) -> None:
    one, server = both
    before = said(one)
    for faults in (["drop", "503"], ["503", "drop"]):
        left = [*faults]
        server.fault = lambda path, number, left=left: left.pop() if left else ""
        assert said(one) == before
        assert not left
    server.fault = lambda path, number: "drop" if path == "/v1/load_lora_adapter" and left else ""
    left[:] = [""]
    move(one)
    with pytest.raises(MachineError, match=r"no connection|connection broke"):
        said(one)
    left.clear()
    said(one)


def test_a_server_that_was_started_anew_gets_the_adapter_again(both: Both) -> None:
    one, server = both
    before = said(one)
    server.adapters.clear()
    assert said(one) == before
    assert len(server.adapters) == 1


def test_positions_that_are_computed_otherwise_leave_no_adapter_behind(both: Both) -> None:
    one, server = both
    before = list(server.adapters)
    one.hold_still(64)
    assert server.adapters == {}
    said(one)
    assert list(server.adapters) == [one.speaker.adapters.name] != before


def test_an_adapter_that_could_not_be_looked_at_is_not_kept(both: Both) -> None:
    one, server = both
    before = list(server.adapters)
    move(one)
    server.fault = lambda path, number: "text" if path == "/v1/completions" else ""
    with pytest.raises(MachineError, match="text in place of token ids"):
        said(one)
    assert list(server.adapters) == before


def test_nothing_stays_in_the_folder_of_adapters(make_model: MakeModel, serve: Serve, tmp_path: Path) -> None:
    """Which is the user's own: of a server that was started anew, and of one that is gone."""
    server = serve(make_model())
    one = meet(make_model(), server.base_url, adapter_folder=str(tmp_path / "adapters"))
    said(one)
    server.adapters.clear()
    said(one)
    move(one)
    server.fault = lambda path, number: "die"
    with pytest.raises(MachineError):
        said(one)
    one.close()
    assert not list((tmp_path / "adapters").iterdir())


def test_a_server_that_is_gone_is_a_machine_error(
    make_model: MakeModel, serve: Serve, engine: Engine
) -> None:
    one = engine(server := serve(make_model()))
    said(one)
    server.fault = lambda path, number: "die"
    with pytest.raises(
        MachineError, match=r"3 attempts\). It answered before\. Start it again(?s:.*)vllm serve"
    ):
        said(one)


def test_an_address_elsewhere_needs_a_folder_that_both_see(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"engine\.adapter_folder that this process and the server both see"):
        meet(make_model(), "http://gpu.example.com:8000/v1")
