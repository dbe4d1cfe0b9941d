"""The number format is decided by a timing of the model's own shape, and decided once a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from refine_rl.plan import machine
from refine_rl.policy import load, number_format
from refine_rl.policy.load import choose_dtype, load_policy
from refine_rl.policy.number_format import faster_format, one_layer
from refine_rl.policy.origin import model_source
from refine_rl.policy.size import model_size
from refine_rl.settings import ModelSettings

MakeModel = Callable[..., Path]
FORMATS = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def a_processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)


def config(name: str = "tiny") -> transformers.PretrainedConfig:
    return transformers.AutoConfig.from_pretrained(model_source(name))


def as_it_is(model: object) -> object:
    return model


def scripted(monkeypatch: pytest.MonkeyPatch, float32: float, bfloat16: float) -> None:
    def seconds(works: list[number_format.Works]) -> list[float]:
        assert len(works) == 2
        assert all(work() >= 0 for pair in works for work in pair)  # they can be done
        return [float32, bfloat16]

    monkeypatch.setattr(number_format, "_seconds", seconds)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [(1.0, 0.5, torch.bfloat16), (1.0, 0.95, torch.float32), (1.0, 2.0, torch.float32)],
)
@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_faster_one_is_taken_where_it_is_clearly_so(
    float32: float, bfloat16: float, chosen: torch.dtype, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, float32, bfloat16)
    policy = load_policy(ModelSettings(name="tiny", adapter=adapter, device="cpu"))  # type: ignore[arg-type]
    assert policy.compute_dtype == chosen


@pytest.mark.parametrize("enough", [0.0, 60.0])
def test_the_shortest_of_several_times_counts(enough: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_format, "ENOUGH", enough)
    most = number_format.TIMES[enough > 0]
    late = [7.0] * (most - 4)
    taken = {
        "a": [9.0, 1.0, 3.0, 2.0, 4.0, *late],
        "b": [9.0, 0.5, 0.25, 7.0, 7.0, *late],
        "c": [0.0, 5.0, 4.0, 6.0, 7.0, *late],  # what comes first is a warm-up
        "d": [0.0, 1.0, 1.0, 1.0, 1.0, *late],
    }
    clocks = {name: iter(times) for name, times in taken.items()}
    works = [tuple(lambda n=n: next(clocks[n]) for n in pair) for pair in ("ab", "cd")]
    assert number_format._seconds(works) == [1.25, 5.0]  # type: ignore[arg-type]
    assert [next(clock, None) for clock in clocks.values()] == [None] * 4


def test_the_layer_has_the_models_widths_and_leaves_its_configuration_alone() -> None:
    whole = config()
    before = whole.to_dict()
    for dtype in FORMATS:
        policy = one_layer(whole, dtype, as_it_is, trains_all=False)
        body = policy.model.model
        assert len(body.layers) == 1
        assert body.layers[0].mlp.gate_proj.weight.shape == (whole.intermediate_size, whole.hidden_size)
        assert body.layers[0].mlp.gate_proj.weight.dtype == policy.compute_dtype == dtype
        assert not torch.isnan(body.layers[0].mlp.gate_proj.weight).any()
        assert policy.fast is not None, policy.why_plain
    assert one_layer(whole, torch.bfloat16, as_it_is, trains_all=True).model.dtype == torch.float32
    assert whole.to_dict() == before


def test_narrow_models_and_what_no_layer_can_be_made_of_stay_float32(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> object:
        raise AssertionError("it was timed")

    with monkeypatch.context() as patch:
        patch.setattr(number_format, "one_layer", never)
        narrow = config(str(make_model("llama")))
        assert faster_format(narrow, as_it_is, trains_all=False) == torch.float32
    scripted(monkeypatch, 1.0, 0.1)
    strange = config()
    assert faster_format(strange, as_it_is, trains_all=False) == torch.bfloat16
    strange.head_dim = 7  # rotary halves of 3.5
    assert faster_format(strange, as_it_is, trains_all=False) == torch.float32


def test_a_machine_decides_once_a_shape(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A later run has the first one's format, whatever a timing would say then."""
    monkeypatch.setenv("REFINE_CACHE", str(tmp_path))

    def loaded(**changes: Any) -> torch.dtype:
        return load_policy(ModelSettings(name="tiny", device="cpu", **changes)).compute_dtype

    scripted(monkeypatch, 1.0, 0.5)
    assert loaded() == torch.bfloat16
    scripted(monkeypatch, 1.0, 2.0)
    assert loaded() == loaded(alpha=8.0) == torch.bfloat16
    assert loaded(rank=4) == loaded(adapter="none") == torch.float32  # other layers
    files = sorted((tmp_path / "formats").iterdir())
    assert len(files) == 3
    (first,) = [file for file in files if json.loads(file.read_text())["format"] == "bfloat16"]
    kept = json.loads(first.read_text())
    assert kept["seconds_a_token"] == {"float32": 1.0, "bfloat16": 0.5}
    assert kept["model"]["hidden_size"] == config().hidden_size
    assert kept["torch"] == torch.__version__
    for damaged in ("{", "[]", '{"format": "float8"}'):
        first.write_text(damaged)
        assert loaded() == torch.float32
        assert json.loads(first.read_text())["format"] == "float32"
    first.unlink()
    scripted(monkeypatch, 1.0, 0.5)
    assert loaded() == torch.bfloat16


def test_of_two_processes_the_sooner_one_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFINE_CACHE", str(tmp_path))

    def meanwhile(works: object) -> list[float]:
        with monkeypatch.context() as other:
            scripted(other, 1.0, 0.5)
            assert faster_format(config(), as_it_is, trains_all=False) == torch.bfloat16
        return [1.0, 2.0]

    monkeypatch.setattr(number_format, "_seconds", meanwhile)
    assert faster_format(config(), as_it_is, trains_all=False) == torch.bfloat16
    assert len([*(tmp_path / "formats").iterdir()]) == 1


def test_a_cache_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("REFINE_CACHE", str(tmp_path / "file"))
    for seconds, chosen in ((0.5, torch.bfloat16), (2.0, torch.float32)):
        scripted(monkeypatch, 1.0, seconds)
        assert faster_format(config(), as_it_is, trains_all=False) == chosen


def test_nothing_is_timed_where_there_is_nothing_to_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> torch.dtype:
        raise AssertionError("it was timed")

    monkeypatch.setattr(load, "faster_here", never)
    assert load_policy(ModelSettings(name="tiny", dtype="bfloat16")).compute_dtype == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert choose_dtype("auto", torch.device("cpu"), never) == torch.float32


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_plan_counts_with_the_format_that_a_run_takes(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(load, "faster_here", lambda config, settings: dtype)
    model = ModelSettings(name="tiny", device="cpu")
    rates = machine.measure(model, model_size(model), sampled=64, trained=2048)
    assert rates.dtype == str(dtype).removeprefix("torch.")
    assert load_policy(model).compute_dtype == dtype


def test_threads_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 1.0, 0.1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        faster_format(config(), as_it_is, trains_all=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
