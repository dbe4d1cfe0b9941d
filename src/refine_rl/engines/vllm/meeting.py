"""Before anything is trained: is that a vLLM server, has it our model, and does it take our adapters?

Everything is measured on answers that the server itself samples, once without an adapter and once with one of
random weights, whose effect is large. What the log-probs of both sides differ by then, is what number format
and kernels leave; the check of every step lets through so much and no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from refine_rl.engines.vllm.adapters import Adapters
from refine_rl.engines.vllm.probe import (
    MARGIN,
    Probe,
    beginnings_of,
    holding,
    mean_difference,
    mean_of,
    put_in,
)
from refine_rl.engines.vllm.reply import Asked, Nonsense
from refine_rl.engines.vllm.server import Refused, Server
from refine_rl.errors import MachineError, UserError
from refine_rl.llm.client import EndpointRefused
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import begun
from refine_rl.policy.sample import spoken_turn
from refine_rl.progress import never
from refine_rl.randomness import torch_seed
from refine_rl.settings.revision import on_hub
from refine_rl.training.check import trainers
from refine_rl.types import Prompt, Trajectory

_QUESTIONS = ("Say hello.", "Name three animals.", "What is two and three?", "Write a line about the sea.")
_WORDS = "The quick brown fox jumps over 13 lazy dogs."
_MEMBERS, _TOKENS = 2, 16
_ALIKE = 0.1
"""Nats a token by which two number formats of one model may differ; other weights differ by more."""
_EFFECT = 0.5
"""Nats a token by which the random adapter moves log-probs, at least."""
_SMALLEST, _DOUBLINGS = 0.005, 12
"""The size of the first random weights that are tried, and how many are tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Met:
    """What was found of a server: its name for the base model; whether its log-probs are those of the
    distribution that it draws from; what its adapters are to be held against from now on."""

    base: str
    processed: bool
    probe: Probe


def meet(policy: Policy, adapters: Adapters, *, allowed: float | None) -> Met:
    """Raises UserError for a server that is none of this model, or was not started as it has to be;
    MachineError where it does not answer. `allowed` is the difference in nats a token that each step lets
    through, where the settings say it. The policy reads no more from here on than the server does."""
    server = adapters.server
    base, longest = model_of(server, policy.source)
    _require_tokens(policy, server, base)
    if longest is not None:
        policy.context_length = min(policy.context_length, longest)
    most = max(_ALIKE, allowed or 0.0)
    name = adapters.load()
    texts = _sampled(policy, server, name, 1.0)
    apart = mean_difference(policy, texts, 1.0)
    if apart > most:
        raise UserError(_not_this_model(server, base, policy.source, apart, most))
    processed = _processed(policy, server, name)
    probe = Probe(policy=policy, server=server, beginnings=beginnings_of(texts), noise=0.0)
    behind = mean_difference(policy, probe.seen(name), 1.0)
    adapters.drop(name)
    with _random_weights(policy, texts) as effect:
        name = adapters.load()
        far = mean_difference(policy, _sampled(policy, server, name, 1.0), 1.0)
        adapters.drop(name)
    if far > min(most, effect / 4):
        raise UserError(_without_effect(server, far, effect))
    noise = max(apart, behind, far, policy.tolerance / MARGIN)
    return Met(base=base, processed=processed, probe=replace(probe, noise=noise))


def model_of(server: Server, source: str) -> tuple[str, int | None]:
    """The server's name for the base model, and how many tokens it reads. Raises UserError where it serves
    none that can be it, MachineError where it does not answer."""
    try:
        found = server.ask("models", final=True)
    except Refused as error:
        raise _refused(server, error) from None
    cards = found.get("data") if isinstance(found, dict) else None
    if (
        not isinstance(cards, list)
        or not all(isinstance(c, dict) and c.get("id") for c in cards)
        or not cards
    ):
        raise server.nonsense("its /models names no model")
    bases = [card for card in cards if not card.get("parent")]
    ours = [card for card in bases if on_hub(source)[0] in (card["id"], card.get("root"))]
    roots = {str(card.get("root")) for card in bases}
    if not ours and len(roots) > 1:
        named = ", ".join(str(card["id"]) for card in bases)
        raise UserError(
            f"{server.shown} serves {named}, and none of them is {source}. Start one so:\n{server.start}"
        )
    card: Mapping[str, Any] = (ours or bases or cards)[0]
    longest = card.get("max_model_len")
    return str(card["id"]), longest if isinstance(longest, int) else None


def _refused(server: Server, error: Refused) -> UserError | MachineError:
    """The error for a server that does not name its models."""
    endpoint = server.endpoint
    if error.status in (401, 403):
        advice = (
            f"Check the key in the environment variable {endpoint.key_env}."
            if endpoint.key_env
            else 'Name the environment variable that holds its key: engine.key_env = "..."'
        )
        return EndpointRefused(f"{server.shown} wants a key: {error}. {advice}")
    if error.status == 404:
        return UserError(
            f"{server.shown} has no /models: {error}. engine.base_url mostly ends in /v1. This command "
            f"starts a server:\n{server.start}"
        )
    return MachineError(f"{server.shown} does not say what it serves: {error}")


def _require_tokens(policy: Policy, server: Server, base: str) -> None:
    """Raises UserError where the server's tokenizer is another; one that does not say is not asked again."""
    root = server.endpoint.base_url.rstrip("/").removesuffix("/v1")
    body = {"model": base, "prompt": _WORDS, "add_special_tokens": False}
    try:
        found = server.ask(f"{root}/tokenize", body, final=True)
    except Refused:
        return
    tokens = found.get("tokens") if isinstance(found, dict) else None
    if isinstance(tokens, list) and tuple(tokens) != policy.encode_words(_WORDS):
        raise UserError(
            f"{server.shown} serves {base}, which writes {_WORDS!r} in other tokens than {policy.source} "
            f"does: it is another model. Start this one so:\n{server.start}"
        )


def _sampled(policy: Policy, server: Server, name: str, temperature: float) -> list[Trajectory]:
    """Answers of the server to a few questions. Raises MachineError where they are none."""
    begin, asked = [], []
    for n, question in enumerate(_QUESTIONS):
        prompt = Prompt(id=f"met{n}", split="train", messages=({"role": "user", "content": question},))
        begin.append(begun(policy.encode(prompt.messages), prompt, _MEMBERS))
        asked.append(
            Asked(
                model=name,
                ids=begin[-1][0].token_ids,
                n=_MEMBERS,
                seed=n,
                sampling=Sampling(max_tokens=_TOKENS, temperature=temperature),
                stops=policy.stop_ids,
                vocabulary=policy.vocabulary,
            )
        )
    try:
        answers = dict(server.ask_each("completions", [one.body for one in asked], never))
        said = [one.said(answers[n]) for n, one in enumerate(asked)]
    except Nonsense as error:
        raise server.nonsense(str(error)) from None
    except Refused as error:
        raise MachineError(f"{server.shown} does not answer for {name}: {error}") from None
    return [
        spoken_turn(policy, member, "", its.tokens, its.logprobs)
        for members, group in zip(begin, said, strict=True)
        for member, its in zip(members, group, strict=True)
    ]


def _processed(policy: Policy, server: Server, name: str) -> bool:
    """Whether log-probs are those of the distribution that is drawn from (--logprobs-mode processed_logprobs)
    and not those at temperature 1: at another temperature they tell."""
    texts = _sampled(policy, server, name, 0.5)
    return mean_difference(policy, texts, 0.5) < mean_difference(policy, texts, 1.0)


@contextlib.contextmanager
def _random_weights(policy: Policy, texts: list[Trajectory]) -> Iterator[float]:
    """Inside, the adapter is a random one; gives by how much it moves the log-probs of texts, in nats a
    token."""
    own = {name: weight.detach().clone() for name, weight in policy.trainable().items()}
    draws = torch.Generator().manual_seed(torch_seed("a random adapter"))
    noise = {n: torch.randn(w.shape, generator=draws).to(w.device, w.dtype) for n, w in own.items()}
    old, effect = trainers(policy, texts, 1.0), 0.0
    with holding(policy, own):
        for doublings in range(_DOUBLINGS):
            put_in(policy, {n: w + _SMALLEST * 2**doublings * noise[n] for n, w in own.items()})
            effect = mean_of(trainers(policy, texts, 1.0) - old)
            if effect >= _EFFECT:
                break
        yield effect


def _not_this_model(server: Server, base: str, source: str, apart: float, most: float) -> str:
    return (
        f"{server.shown} serves {base}, and its log-probs differ from those of {source} here by {apart:.2g} "
        f"nats a token (at most {most:.2g} is let through): other weights, a quantised model, or "
        "--logprobs-mode with logits. Where it is this model in a coarser number format, "
        "grpo.mismatch_tolerance lets more through. This command serves it as it is here:\n"
        f"{server.start}"
    )


def _without_effect(server: Server, far: float, effect: float) -> str:
    return (
        f"{server.shown} loads adapters, and answers otherwise than they do here: one of random weights "
        f"moves log-probs by {effect:.2g} nats a token here, and with it the server's are {far:.2g} away. It "
        "leaves the adapter or some of its layers out; model.targets may name fewer. This command starts one "
        f"that takes them:\n{server.start}"
    )
