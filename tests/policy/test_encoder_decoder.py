"""Encoder-decoders: sampling and log-probs against a plain twin, each row alone in the model's forward."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from make import prompts
from models import FAMILIES, TEXTS, listening_model, listening_tokenizer
from refine_rl.envs.play import sample
from refine_rl.errors import UserError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.encoder_decoder import EncoderDecoder
from refine_rl.policy.halves import Halves, for_rows
from refine_rl.policy.load import load_policy
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.policy.tokens import TokenBatch, token_batch
from refine_rl.randomness import uniforms
from refine_rl.settings import ModelSettings
from refine_rl.types import Segment, Trajectory

Make = Callable[..., Path]
PURPOSE = Purpose(seed=3, step=7, name="rollout")
UNEVEN = prompts("hi", "say something short about the cat", "the dog and the cat and the dog and the cat")
ROUNDING = 3e-4
"""Of float32, in nats, where the logits of a random model are large."""


def shown(policy: EncoderDecoder, messages: Any, *, every: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    given, target = policy.demonstrate(messages, every=every)
    assert (given.trainable, target.trainable, target.target) == (False, True, True)
    return given.token_ids, target.token_ids


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make("t5", **config) -> a folder with a small random encoder-decoder."""
    built: dict[str, Path] = {}

    def make(family: str, **changes: Any) -> Path:
        key = f"{family} {changes}"
        if key not in built:
            built[key] = listening_model(tmp_path_factory.mktemp(family), family, **changes)
        return built[key]

    return make


def policy_of(folder: Path, *, shaken: float = 0.1, **changes: Any) -> EncoderDecoder:
    """Its adapter does something: a fresh one changes nothing."""
    settings = {"name": str(folder), "dtype": "float32", "device": "cpu", "rank": 4, **changes}
    policy = load_policy(ModelSettings(**settings))  # type: ignore[arg-type]
    assert isinstance(policy, EncoderDecoder)
    if policy.adapter:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in policy.trainable().values():
                parameter += shaken * torch.randn(parameter.shape, generator=generator)
    return policy


def alone(policy: Any, prompt_ids: list[int], answer: list[int], temperature: float = 1.0) -> torch.Tensor:
    """The log-probs of an answer's next tokens, [T + 1, V]: one row through the model's own forward pass,
    nothing padded, cached or shared."""
    start = list(policy.halves.start)
    out = policy.model(
        input_ids=torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        decoder_input_ids=torch.tensor([start + answer]),
        use_cache=False,
    )
    return (out.logits[0, len(start) - 1 :] / temperature).log_softmax(-1)


def twin(policy: Any, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
    """[B, T], row by row."""
    out = torch.zeros(batch.ids.shape, dtype=torch.float64)
    for row, (first, length) in enumerate(zip(batch.prompts, batch.lengths, strict=True)):
        ids = batch.ids[row, :length].tolist()
        found = alone(policy, ids[:first], ids[first:-1], temperature)
        out[row, first:length] = found.gather(1, torch.tensor(ids[first:])[:, None])[:, 0].double()
    return out.masked_fill(~batch.trainable, 0.0)


@torch.no_grad()
def plain(policy: Any, of: Any, member: int, sampling: Sampling) -> tuple[list[int], list[float]]:
    """One member sampled alone, a whole forward pass for every token."""
    ids = list(policy.encode(of.messages))
    draws = uniforms(sampling.max_tokens, seed=3, step=7, prompt_id=of.id, member=member, purpose="rollout")
    tokens: list[int] = []
    values: list[float] = []
    for draw in draws:
        logprobs = alone(policy, ids, tokens, sampling.temperature or 1.0)[-1].double()
        if sampling.temperature == 0:
            token = int(logprobs.argmax())
        else:
            token = int(np.searchsorted(logprobs.exp().cumsum(0).numpy(), draw, side="right"))
        tokens.append(token)
        values.append(float(logprobs[token]))
        if token in policy.stop_ids:
            break
    return tokens, values


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.8, 0.0])
def test_batched_sampling_is_plain_sampling(make: Make, family: str, temperature: float) -> None:
    policy = policy_of(make(family))
    policy.stop_ids = frozenset(range(0, policy.vocabulary, 9))  # so that members end at different times
    sampling = Sampling(max_tokens=12, temperature=temperature)
    groups = sample(policy, UNEVEN, members=3, sampling=sampling, purpose=PURPOSE)
    lengths = set()
    for of, group in zip(UNEVEN, groups, strict=True):
        for member, trajectory in enumerate(group):
            tokens, values = plain(policy, of, member, sampling)
            assert trajectory.segments[0].token_ids == policy.encode(of.messages)
            assert list(trajectory.segments[1].token_ids) == tokens
            assert trajectory.segments[1].logprobs == pytest.approx(values, abs=ROUNDING)
            assert trajectory.stop_reason == ("stop" if tokens[-1] in policy.stop_ids else "length")
            lengths.add(len(tokens))
    assert len(lengths) > 1 or temperature == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trainer_agrees_with_the_sampler(make: Make, family: str, adapter: str, dtype: str) -> None:
    policy = policy_of(make(family), adapter=adapter, dtype=dtype)
    groups = sample(
        policy, UNEVEN, members=3, sampling=Sampling(max_tokens=12, temperature=0.7), purpose=PURPOSE
    )
    batch, recorded = taken_apart(groups)
    new = policy.logprobs(batch, temperature=0.7).detach()
    assert not new[~batch.trainable].any()
    assert (new[batch.trainable] - recorded).abs().mean() < policy.tolerance


def taken_apart(groups: list[tuple[Trajectory, ...]]) -> tuple[TokenBatch, torch.Tensor]:
    members = [t for group in groups for t in group]
    return token_batch(members), torch.tensor([x for t in members for s in t.segments for x in s.logprobs])


def some_rows(vocabulary: int) -> TokenBatch:
    """Two prompts of two answers each and one alone, of several lengths; a piece of one was given."""
    generator = torch.Generator().manual_seed(5)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist())

    def said(n: int) -> Segment:
        return Segment(token_ids=ids(n), trainable=True, logprobs=(0.0,) * n)

    first, second, third = (Segment(token_ids=ids(n), trainable=False) for n in (9, 3, 14))
    given = Segment(token_ids=ids(2), trainable=False)
    rows = [
        (first, said(6)),
        (second, said(1)),
        (first, said(2), given, said(3)),
        (second, said(8)),
        (third, said(4)),
    ]
    return token_batch(
        [
            Trajectory(prompt_id="", member=0, messages=(), segments=segments, stop_reason="stop")
            for segments in rows
        ]
    )


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_rows_alone(
    make: Make, family: str, adapter: str, recomputed: bool
) -> None:
    policy = policy_of(make(family), adapter=adapter, gradient_checkpointing=recomputed)
    batch = some_rows(policy.vocabulary)
    weights = torch.randn(batch.ids.shape, generator=torch.Generator().manual_seed(2))
    found = policy.logprobs(batch, temperature=0.9)
    wanted = twin(policy, batch, temperature=0.9)
    assert (found - wanted).abs().max() < ROUNDING
    parameters = policy.trainable()
    got = torch.autograd.grad((found * weights).sum(), list(parameters.values()))
    want = torch.autograd.grad((wanted * weights).sum(), list(parameters.values()))
    largest = max(g.abs().max() for g in want)
    assert max((g - w).abs().max() for g, w in zip(got, want, strict=True)) < 2e-4 * largest
    assert any(
        "encoder" in n and g.abs().max() > 1e-3 * largest for n, g in zip(parameters, got, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_exact_in_double_precision(make: Make, family: str) -> None:
    """The head's sums are float32; what comes before it is compared in float64, where nothing hides."""
    policy = policy_of(make(family), adapter="none")
    model = exact(copy.deepcopy(policy.model).double())
    halves = replace(policy, model=model).halves
    batch = some_rows(policy.vocabulary)
    ids = [batch.ids[row, :length].tolist() for row, length in enumerate(batch.lengths)]
    rows = [(tuple(i[:p]), i[p:-1]) for i, p in zip(ids, batch.prompts, strict=True)]
    given = list(dict.fromkeys(prompt for prompt, _ in rows))
    heard = halves.hear(given)
    own = for_rows(heard, torch.tensor([given.index(prompt) for prompt, _ in rows]))
    fed = torch.zeros(len(rows), max(len(said) for _, said in rows), dtype=torch.long)
    for row, (_, said) in enumerate(rows):
        fed[row, : len(said)] = torch.tensor(said)
    shared = torch.cat([own.hidden[:, None], halves.go_on(fed, own)], dim=1)
    together = [shared[row, : len(said) + 1] for row, (_, said) in enumerate(rows)]
    each = [
        model(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            decoder_input_ids=torch.tensor([[*halves.start, *said]]),
            output_hidden_states=True,
            use_cache=False,
        ).decoder_hidden_states[-1][0]
        for prompt, said in rows
    ]
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(x.shape, dtype=torch.float64, generator=generator) for x in each]

    def gradients(found: list[torch.Tensor]) -> list[torch.Tensor | None]:
        total = sum((x * w).sum() for x, w in zip(found, weights, strict=True))
        return list(torch.autograd.grad(total, list(model.parameters()), allow_unused=True))  # type: ignore[arg-type]

    got, want = gradients(together), gradients(each)
    assert [g is None for g in got] == [w is None for w in want]
    pairs = [(g, w) for g, w in zip(got, want, strict=True) if g is not None and w is not None]
    largest = max(w.abs().max() for _, w in pairs)
    assert max((g - w).abs().max() for g, w in pairs) < 1e-12 * largest


def exact(model: Any) -> Any:
    """T5's norms take their variance in float32 whatever the number format; these do not."""

    class Exact(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            norm: Any = self
            return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)

    for module in model.modules():
        if type(module).__name__.endswith("T5LayerNorm"):
            module.__class__ = Exact
    return model


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    transformers.T5EncoderModel(transformers.T5Config(**sizes, is_encoder_decoder=False)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match=r"encoder of an encoder-decoder \(t5\) alone: it reads, and cannot"):
        load_policy(ModelSettings(name=str(tmp_path), device="cpu"))


def test_an_encoder_only_model_is_refused(tmp_path: Path) -> None:
    import transformers

    tokenizer = listening_tokenizer(TEXTS, 300)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=2,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lets a token see what follows it: .*Decoder-only models and enc"):
        load_policy(ModelSettings(name=str(tmp_path), device="cpu"))


def said(*turns: str) -> list[Any]:
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(turns)]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_answer_to_imitate_is_what_would_be_sampled(make: Make, family: str) -> None:
    policy = policy_of(make(family))
    prompt_ids, answer = shown(policy, said("hello", "the cat"), every=True)
    assert prompt_ids == policy.encode(said("hello"))
    assert policy.tokenizer.decode(answer) == ("<s>the cat</s>" if family == "bart" else "the cat</s>")
    assert policy.decode(answer) == "the cat"
    several = said("hello", "the cat", "and?", "the dog")
    with pytest.raises(UserError, match="2 answers, and an encoder-decoder writes one to each prompt"):
        policy.demonstrate(several, every=True)
    prompt_ids, answer = shown(policy, several, every=False)
    assert policy.decode(prompt_ids) == "User: hello\nAssistant: the cat\nUser: and?"
    assert policy.decode(answer) == "the dog"
    with pytest.raises(UserError, match="nothing to imitate"):
        policy.demonstrate(said("hello"), every=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_generate(make: Make, family: str) -> None:
    # transformers' generate() does not get on with a T5 whose decoder is deeper than its encoder.
    policy = policy_of(make(family) if family == "bart" else make(family, num_decoder_layers=2))
    groups = sample(
        policy, UNEVEN, members=1, sampling=Sampling(max_tokens=10, temperature=0), purpose=PURPOSE
    )
    for of, (trajectory,) in zip(UNEVEN, groups, strict=True):
        ids = torch.tensor([policy.encode(of.messages)])
        out = policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=10,
            do_sample=False,
            num_beams=1,
        )
        written = out[0, len(policy.halves.start) :].tolist()
        assert list(trajectory.segments[1].token_ids) == written


def test_a_forced_first_token_is_implicit(make: Make, tmp_path: Path) -> None:
    """As in BARTs that were taught to summarise: behind the decoder's start stands a token that nobody
    samples."""
    folder = listening_model(tmp_path / "bart", "bart")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "forced_bos_token_id": 0}))
    policy = policy_of(folder)
    assert policy.halves.start == (2, 0)
    sampling = Sampling(max_tokens=6, temperature=0.8)
    (group,) = sample(policy, UNEVEN[1:2], members=2, sampling=sampling, purpose=PURPOSE)
    for trajectory in group:
        tokens, values = plain(policy, UNEVEN[1], trajectory.member, sampling)
        assert list(trajectory.segments[1].token_ids) == tokens
        assert trajectory.segments[1].logprobs == pytest.approx(values, abs=ROUNDING)
    assert policy.tokenizer.decode(shown(policy, said("hello", "the cat"), every=True)[1]) == "the cat</s>"


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_given_tokens_are_gone_on_from(make: Make, family: str) -> None:
    """Members of one prompt with given tokens of several lengths, as early exits have, in one batch: each as
    if alone."""
    policy = policy_of(make(family))
    policy.stop_ids = frozenset()
    of, other = UNEVEN[1], UNEVEN[0]
    sampling = Sampling(max_tokens=5, temperature=0.9)
    begun = tuple(begun_with(policy, of, m, given) for m, given in enumerate([(7, 8, 9), (), (7,), (7,)]))
    more = (begun_with(policy, other, 0, (11, 12, 13)),)
    found = dict(policy.speak([begun, more], sampling=sampling, purpose=PURPOSE))
    for group, starts in ((found[0], begun), (found[1], more)):
        for trajectory, start in zip(group, starts, strict=True):
            given = list(start.token_ids[len(start.segments[0].token_ids) :])
            ids = list(start.segments[0].token_ids)
            draws = uniforms(
                5, seed=3, step=7, prompt_id=start.prompt.id, member=start.member, purpose="rollout"
            )
            tokens: list[int] = []
            with torch.no_grad():
                for draw in draws:
                    p = alone(policy, ids, given + tokens, 0.9)[-1].double().exp()
                    tokens.append(int(np.searchsorted(p.cumsum(0).numpy(), draw, side="right")))
            assert list(trajectory.segments[-1].token_ids) == tokens
    batch, recorded = taken_apart([found[0], found[1]])
    new = policy.logprobs(batch, temperature=0.9).detach()[batch.trainable]
    assert (new - recorded).abs().max() < ROUNDING


def begun_with(policy: EncoderDecoder, of: Any, member: int, given: tuple[int, ...]) -> Begun:
    first = Segment(token_ids=policy.encode(of.messages), trainable=False)
    more = (Segment(token_ids=given, trainable=False),) if given else ()
    return Begun(prompt=of, member=member, segments=(first, *more))


def test_a_prefix_and_special_tokens_in_a_text(make: Make) -> None:
    policy = policy_of(make("t5"), prefix="summarize: ")
    plain_ids = policy.encode(said("the cat"))
    assert policy.tokenizer.decode(plain_ids) == "summarize: the cat</s>"
    ids = policy.encode(said("the </s> and <extra_id_0> and <pad>"))
    special = set(policy.tokenizer.all_special_ids)
    assert [i for i in ids if i in special] == [policy.tokenizer.eos_token_id]
    assert policy.decode(ids) == "summarize: the </s> and <extra_id_0> and <pad>"
    assert policy.decode(policy.encode_words("a </s> b")) == "a </s> b"
    assert policy.decode([5 + 250, *policy.tokenizer.all_special_ids]) == policy.decode([5 + 250])
    assert policy.opening(said("hi")) == ""


def test_a_prefix_is_refused_for_a_decoder_only_model(make_model: Make) -> None:
    settings = ModelSettings(name=str(make_model("llama")), prefix="summarize: ", device="cpu")
    with pytest.raises(UserError, match=r"'summarize: ' is what an encoder-decoder reads .*prompts\.system"):
        load_policy(settings)


def test_a_decoder_without_a_start_token_is_refused(tmp_path: Path) -> None:
    folder = listening_model(tmp_path, decoder_start_token_id=None)
    with pytest.raises(UserError, match="does not say with which token its decoder begins"):
        policy_of(folder)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_that_sees_padding_is_found_when_it_is_loaded(
    make: Make, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Halves.encode

    def unmasked(self: Halves, prompts: Any) -> Any:
        mask = encode(self, prompts)[1]
        longest = mask.shape[1]
        return encode(self, [(*prompt, *[0] * longest)[:longest] for prompt in prompts])[0], mask

    monkeypatch.setattr(Halves, "encode", unmasked)
    with pytest.raises(UserError, match="computes other log-probs where a prompt is encoded once"):
        policy_of(make(family))


def test_prompt_and_answer_have_a_limit_each(make: Make) -> None:
    policy = policy_of(make("bart"))
    assert policy.context_length == 96
    assert (policy.prompt_room(96), policy.prompt_room(97)) == (96, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_goes_through_the_encoder_once_for_all_its_members(make: Make, family: str) -> None:
    """In sampling and in training; so do the decoder's keys and values of it."""
    policy = policy_of(make(family))
    seen: list[int] = []
    policy.halves.encoder.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    cross = next(
        module
        for name, module in policy.halves.decoder.named_modules()
        if name.endswith(("EncDecAttention.k", "encoder_attn.k_proj"))
    )
    heard: list[int] = []
    cross.register_forward_hook(lambda module, args, out: heard.append(len(args[0])))
    sampling = Sampling(max_tokens=6)
    groups = sample(policy, UNEVEN, members=4, sampling=sampling, purpose=PURPOSE)
    batch, _ = taken_apart(groups)
    policy.logprobs(batch)
    # In training, prompts of very different lengths go apart.
    assert (seen, heard) == ([3, 2, 1], [3, 2, 1])


def test_adapters_and_merged_models_are_read_by_their_libraries(make: Make, tmp_path: Path) -> None:
    import peft
    import transformers

    for family in FAMILIES:
        policy = policy_of(make(family))
        policy.save(tmp_path / family / "adapter")
        lost = policy.save_merged(tmp_path / family / "merged")
        assert lost < 1e-6
        one = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / family / "adapter").eval()
        other = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / family / "merged").eval()
        ids = torch.tensor([policy.encode(UNEVEN[1].messages)])
        given = torch.tensor([[*policy.halves.start, 9, 20, 31]])
        with torch.no_grad():
            want, *found = (
                m(input_ids=ids, decoder_input_ids=given).logits for m in (policy.model, one, other)
            )
        for logits in found:
            assert (logits - want).abs().max() < ROUNDING
        again = policy_of(tmp_path / family / "adapter", shaken=0.0)  # an adapter is a start
        batch = some_rows(policy.vocabulary)
        with torch.no_grad():
            assert (again.logprobs(batch) - policy.logprobs(batch)).abs().max() < ROUNDING


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_reference_is_the_untrained_model(make: Make, adapter: str) -> None:
    folder = make("t5")
    policy = load_policy(
        ModelSettings(name=str(folder), adapter=adapter, dtype="float32", device="cpu"),  # type: ignore[arg-type]
        keep_reference=True,
    )
    batch = some_rows(policy.vocabulary)
    with torch.no_grad():
        before = policy.logprobs(batch)
        for parameter in policy.trainable().values():
            parameter += 0.05
        assert (policy.logprobs(batch) - before).abs().max() > 1e-2
        with policy.reference() as reference:
            assert (reference.logprobs(batch) - before).abs().max() < 1e-5
