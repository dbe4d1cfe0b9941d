"""The model: whole, spoken to as it wants to be, with an adapter that reaches it and that its sampler has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial

from refine_rl.engines.base import Engine, Loading
from refine_rl.engines.build import engine_of
from refine_rl.engines.local import LocalEngine
from refine_rl.envs.play import sample
from refine_rl.envs.tools.tool import load_tools
from refine_rl.llm.ledger import Ledger
from refine_rl.pipeline.doctor.found import Examination
from refine_rl.pipeline.doctor.subject import Subject
from refine_rl.policy.draw import Sampling
from refine_rl.policy.hub import downloading
from refine_rl.policy.manners import Manners, manners_of
from refine_rl.policy.origin import model_source
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.policy.reach import reach_of, stirred, tied
from refine_rl.progress import count
from refine_rl.training.check import Check, samplers, trainers
from refine_rl.training.grpo.setup import learner_config
from refine_rl.types import Prompt, count_of

_TRIED = 2  # prompts, and answers to each
_TOKENS = 16  # of each answer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded(Loading):
    """What is here already."""

    had: Policy

    def policy(self) -> Policy:
        return self.had


def loaded(it: Subject, *, served: bool) -> Engine | None:
    """The model with a fresh adapter, whole or not at all. `served`: its server may be asked; otherwise, and
    where the server will not do, it answers in this process."""
    settings = it.settings
    alone = settings.sft is not None and not settings.scored
    model = settings.sft_model if alone else settings.model
    policy: Policy | None = None
    with it.exam.looking("weights"):
        tools = load_tools(settings.rollout.tools, settings.folder)
        loading = Loading(
            model=model,
            seed=settings.grpo.seed,
            adapter_from=None,
            keep_reference=False,
            moment=datetime.now(),
            tools=tuple(tool.schema for tool in tools.values()),
        )
        source = model_source(model.name, it.observer.note)
        with downloading(source, partial(count, it.observer, "MB downloaded")):
            policy = loading.policy()
    if policy is None:
        return None
    exam = it.exam
    exam.ok("weights", f"whole: {policy.share.whole / 1e6:,.4g} M numbers, {_head(policy)}, {policy.where}")
    if policy.start is not None:
        exam.ok("weights", f"the adapter of {model.called} is merged; rounding took {policy.start.lost:.0%}")
    if served and settings.engine.kind == "vllm":
        here = {f.name: getattr(loading, f.name) for f in fields(loading)}
        with exam.looking("engine"):
            config, ledger = learner_config(settings), Ledger(lambda call: None)
            engine = engine_of(settings.engine, _Loaded(**here, had=policy), config, ledger)
            exam.ok("engine", "; ".join(["it has the adapter and gives the same log-probs", *engine.notes]))
            return engine
    return LocalEngine(policy)


def _head(policy: Policy) -> str:
    return "head and embedding are one" if tied(policy) else "head and embedding are two"


def look_at_manners(exam: Examination, policy: Policy) -> None:
    """The template, and the tokens that end an answer."""
    found: Manners | None = None
    with exam.looking("template"):
        found = manners_of(policy)
    if found is None:
        return
    if found.gap:
        exam.fail(
            "template",
            f"A prompt ends with {found.end!r}, and the template writes {found.gap!r} before an answer: it "
            "forgets add_generation_prompt, so the model is not told that it is its turn",
            "At the end of chat_template.jinja beside the weights (or of chat_template in "
            f"tokenizer_config.json):\n{{% if add_generation_prompt %}}{_escaped(found.gap)}{{% endif %}}",
        )
    else:
        exam.ok("template", f"a prompt ends where an answer begins: {found.end!r}")
    _stops(exam, found)


def _escaped(text: str) -> str:
    """A text as an expression of a template."""
    return "{{ " + repr(text) + " }}"


def _stops(exam: Examination, found: Manners) -> None:
    words = ", ".join(f"{text!r} ({i})" for i, text in found.stops.items())
    if found.beyond:
        numbers = ", ".join(map(str, found.beyond))
        report = exam.fail if len(found.beyond) == len(found.stops) else exam.warn
        report(
            "stop tokens",
            f"{words}; the model has no token {numbers}, so it can never say it",
            "Mend eos_token_id in generation_config.json and config.json beside the weights.",
        )
    elif found.turn_ends is False:
        exam.warn(
            "stop tokens",
            f"{words} would end an answer, and the template puts none behind one: a model that learned from "
            "it goes on until it is cut",
            "Behind an assistant's message in chat_template.jinja beside the weights:\n{{ eos_token }}",
        )
    else:
        beside = (
            "; generation_config.json lacks the one that the template puts behind an answer, and is written "
            "anew beside the tuned model"
            if found.named is False
            else ""
        )
        exam.ok("stop tokens", f"{words} ends an answer{beside}")


def look_at_reach(it: Subject, policy: Policy) -> None:
    """How much of the model training changes."""
    exam, settings = it.exam, it.settings
    with exam.looking("adapter"):
        reach, share = reach_of(policy), policy.share.text
        if not policy.adapter:
            exam.ok("adapter", f"none: {share}")
            return
        words = (
            f"{settings.model.method} on {reach.adapted} of {reach.linear} linear layers "
            f"({', '.join(reach.names)}), in {reach.reached} of {count_of(reach.blocks, 'block')}: {share}"
        )
        if reach.whole:
            exam.ok("adapter", words)
        else:
            exam.warn(
                "adapter",
                f"{words}. {count_of(reach.blocks - reach.reached, 'block')} cannot learn",
                it.command.again("model.targets=all-linear"),
            )


def look_at_sampler(it: Subject, engine: Engine, prompts: Sequence[Prompt]) -> None:
    """Whether an adapter changes what is sampled as it changes what is trained: with random matrices in it,
    sampler and trainer must agree, and both must differ from the untrained model."""
    with it.exam.looking("sampler"):
        _compare(it, engine.policy, engine.speaker, prompts[:_TRIED])


def _compare(it: Subject, policy: Policy, speaker: Speaker, prompts: Sequence[Prompt]) -> None:
    exam, settings = it.exam, it.settings
    r, seed = settings.rollout, settings.grpo.seed
    sampling = Sampling(
        max_tokens=min(_TOKENS, r.max_tokens), temperature=r.temperature, top_p=r.top_p, top_k=r.top_k
    )
    check = Check(speaker=speaker, temperature=r.temperature, allowed=settings.grpo.mismatch_tolerance)
    with stirred(policy, seed) as matrices:
        purpose = Purpose(seed=seed, step=0, name="doctor")
        groups = sample(speaker, prompts, members=_TRIED, sampling=sampling, purpose=purpose, pause=it.pause)
        said = [t for group in groups for t in group]
        differ = check.compare(said, 0)
        moved = None
        if matrices and speaker.has_reference:
            with speaker.reference() as untrained:
                moved = float((trainers(untrained, said, r.temperature) - samplers(said)).abs().mean())
    words = (
        f"its log-probs are the trainer's: {float(differ.mean()):.1e} nats a token apart (allowed: "
        f"{check.limit:.1e})"
    )
    if moved is None:
        exam.ok("sampler", words)
    elif moved <= max(10 * float(differ.mean()), check.limit):
        exam.fail(
            "sampler",
            f"An adapter with random matrices moves its log-probs by {moved:.1e} nats a token alone: what is "
            "learned would not reach it",
            '[model]\ntargets = "all-linear"',
        )
    else:
        exam.ok("sampler", f"{words}, and a random adapter moves them by {moved:.2g}")
