"""The LLMs of a task: their keys and prices without asking anybody; then each is asked once, as by a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refine_rl.llm.background import all_of, run_blocking
from refine_rl.llm.client import Call, CallFailed, Client, Request
from refine_rl.llm.connections import EndpointConnections
from refine_rl.llm.endpoints import Endpoint, parse_model, resolve
from refine_rl.llm.ledger import Ledger
from refine_rl.llm.listing import Listing, list_models
from refine_rl.llm.prices import find_price, price_table
from refine_rl.llm.schemas import listed
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.pipeline.doctor.found import Examination
from refine_rl.pipeline.doctor.subject import Subject
from refine_rl.plan.calls import LOOK, calls, calls_for_groups
from refine_rl.plan.counts import Counts
from refine_rl.plan.money import cost
from refine_rl.plan.probe import PROMPTS
from refine_rl.progress import Pause
from refine_rl.report.asked import money
from refine_rl.rewards.build import Scorers, build_scorers, panels, quiz_of
from refine_rl.rewards.judges.first_look import Looked, look_at_judges, look_at_quiz
from refine_rl.run.endpoints import check_models, models_in
from refine_rl.settings import Settings
from refine_rl.types import Prompt, count_of

_TEXTS = Path(__file__).parent / "texts"
_FORM = listed("inputs", {"input": {"type": "string"}})


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """The endpoints of a task, with every call that was made; `scorers` are those of a run."""

    connections: EndpointConnections
    scorers: Scorers | None
    calls: list[Call] = field(default_factory=list)


def look_at_keys(it: Subject) -> Endpoints | None:
    """Whether every LLM that the settings name can be asked: an address, a key, and a price where there is a
    cap. None where one cannot, and where none is named."""
    exam, settings = it.exam, it.settings
    made: list[Call] = []
    connections = EndpointConnections(
        settings.endpoints, Ledger(made.append, dollars=settings.budget.dollars), note=lambda text: None
    )
    named = models_in(settings)
    scorers: Scorers | None = None
    with exam.looking("endpoints") as looked:
        check_models(settings, connections)
    if looked.failed or not named:
        return None
    if settings.scored:
        with exam.looking("reward") as looked:
            scorers = build_scorers(settings, (), connections)
    models = list(dict.fromkeys(named.values()))
    unpriced = [m for m in models if find_price(_endpoint(m, settings), m) is None]
    words = f"{', '.join(models)}: known, with a key where one is needed"
    if unpriced:
        told = f"{words}; the price of {', '.join(unpriced)} is not known, so costs cannot be told"
        exam.warn("endpoints", told, price_table(unpriced, settings.endpoints))
    else:
        exam.ok("endpoints", words)
    return None if looked.failed else Endpoints(connections=connections, scorers=scorers, calls=made)


def _endpoint(model: str, settings: Settings) -> Endpoint:
    return resolve(model, settings.endpoints, os.environ)


def words_before(settings: Settings, counts: Counts | None, prompts: Sequence[Prompt]) -> str:
    """What is going to be asked of LLMs, and what it may cost; "" where nobody is asked."""
    named = models_in(settings)
    if not named or counts is None:
        return ""
    first = [c for c in calls(settings, counts) if c.stage == LOOK]
    train = sum(p.split == "train" for p in prompts)
    scoring = calls_for_groups(settings, counts, groups=min(PROMPTS, train))
    number = sum(c.high for c in (*first, *scoring)) + bool(settings.writer.model)
    if not number:
        return ""
    paid = cost([*first, *scoring], settings.endpoints)
    dollars = f"at most about {money(paid.high, 0)}" if not paid.unknown else "at a price that is not known"
    cap = settings.budget.dollars
    limit = f" (budget.dollars stops it at ${cap:g})" if cap is not None else ""
    models = ", ".join(dict.fromkeys(named.values()))
    return f"The doctor makes up to {count_of(number, 'call')} to {models}, {dollars}{limit}."


def ask_them(it: Subject, known: Endpoints, prompts: Sequence[Prompt]) -> bool:
    """Asks each endpoint for its models and each LLM once. Whether those who score can be used."""
    reached, writer = _reached(it), it.settings.writer.model
    judged = _judges(it, known, prompts, reached)
    if writer and parse_model(writer)[0] in reached:
        with it.exam.looking("writer"):
            _writer(it, known)
    return judged


def _reached(it: Subject) -> set[str]:
    """The endpoints that answer, by name; a model that one does not list is worth a word."""
    exam, settings = it.exam, it.settings
    models = list(dict.fromkeys(models_in(settings).values()))
    endpoints = {parse_model(model)[0]: _endpoint(model, settings) for model in models}

    async def every() -> list[Listing]:
        return await all_of(list_models(endpoint) for endpoint in endpoints.values())

    listings: Mapping[str, Listing] = {}
    with exam.looking("endpoints"):
        listings = dict(zip(endpoints, run_blocking(every, it.pause), strict=True))
    for name, listing in listings.items():
        endpoint = endpoints[name]
        if listing.failure and listing.reached:
            advice = (
                f"export {endpoint.key_env}=..."
                if endpoint.key_env
                else "Where it needs a key, with the name of the variable that holds it:\n"
                + it.command.again(f"endpoints.{name}.key_env=NAME")
            )
            exam.fail("endpoints", f"{name} ({endpoint.base_url}) refuses: {listing.failure}", advice)
        elif listing.failure:
            exam.fail(
                "endpoints",
                f"{name} ({endpoint.base_url}) does not answer: {listing.failure}",
                "Is it running? Where it is at another address:\n"
                + it.command.again(f"endpoints.{name}.base_url=ADDRESS"),
            )
    for model in models:
        name, own = parse_model(model)
        if name in listings and (near := listings[name].lacks(own)):
            exam.warn(
                "endpoints",
                f"{name} does not list {own}; the nearest that it has is {near}",
                f'In the task file: "{name}/{near}"',
            )
    return {name for name, listing in listings.items() if not listing.failure}


def _judges(it: Subject, known: Endpoints, prompts: Sequence[Prompt], reached: set[str]) -> bool:
    exam, settings, scorers = it.exam, it.settings, known.scorers
    if scorers is None:
        return False
    asked, quiz = panels(scorers), quiz_of(scorers.validation)
    if not asked and quiz is None:
        return True
    named = {parse_model(m)[0] for key, m in models_in(settings).items() if key != "writer.model"}
    if not named <= reached:
        exam.skip("judges", f"Not asked: {', '.join(sorted(named - reached))} cannot be reached")
        return False
    train = [p for p in prompts if p.split == "train"]
    stands_in = Prompt(id="first-look", split="train", messages=({"role": "user", "content": settings.task},))
    fine = True
    if asked:
        with exam.looking("judges") as looked:
            found = _asked(known, lambda: look_at_judges(asked, train[0] if train else stands_in), it.pause)
            for one in found:
                fine &= _told(exam, "judges", known.calls, one)
        fine &= not looked.failed
    if quiz is not None and train:
        with exam.looking("quiz") as looked:
            for one in _asked(known, lambda: look_at_quiz(quiz, train), it.pause):
                if one.failure:
                    exam.fail(
                        "quiz",
                        f"No questions could be had: {one.failure}",
                        'Another writer of them, in the task file:\n[reward.quiz]\nwriter = "ENDPOINT/MODEL"',
                    )
                    fine = False
                else:
                    exam.ok("quiz", "questions are written, and answered")
        fine &= not looked.failed
    return fine


def _asked(known: Endpoints, look: Any, pause: Pause) -> list[Looked]:
    async def closing() -> list[Looked]:
        try:
            found: list[Looked] = await look()
            return found
        finally:
            await known.connections.close()

    return run_blocking(closing, pause)


def _told(exam: Examination, check: str, made: Sequence[Call], one: Looked) -> bool:
    """Puts down how an LLM answered in one role; whether anything of it could be used."""
    own = [c for c in made if f"{c.endpoint}/{c.model}" == one.model]
    if one.failure:
        exam.fail(
            check,
            f"{one.model} ({one.role}): {one.failure}",
            'Take another model, or have it score each answer alone:\n[judge]\nkind = "absolute"',
        )
        return False
    wrong = sum(c.outcome == "unusable" for c in own)
    words = f"{one.model} ({one.role}) answers, {_how(own)}"
    if wrong:
        text = f"{words}; {wrong} of its {len(own)} replies had to be corrected before it kept to JSON"
        exam.warn(check, text, "Each correction is a call more: take a model that knows JSON schemas.")
    else:
        exam.ok(check, words)
    return True


def _how(made: Sequence[Call]) -> str:
    """Time and money of calls."""
    new = [c for c in made if c.outcome != "cached"]
    if not new:
        return "from the cache"
    seconds = sum(c.seconds for c in new) / len(new)
    known = [c.cost_usd for c in new if c.cost_usd is not None]
    return f"{seconds:.1f} s a call, {money(sum(known) if known else None, len(new) - len(known))}"


def _writer(it: Subject, known: Endpoints) -> None:
    exam, settings = it.exam, it.settings
    client: Client = known.connections.client(settings.writer.model)
    before = len(known.calls)
    request = Request(
        messages=(
            {"role": "user", "content": fill(load_text(_TEXTS, "writer.md"), {"task": settings.task})},
        ),
        purpose="writer",
        about="doctor",
        temperature=settings.writer.temperature,
        max_tokens=settings.writer.max_tokens,
        schema=_FORM,
    )

    def read(value: Any) -> str:
        rows = value.get("inputs") if isinstance(value, dict) else None
        if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
            raise Unusable('There is no list "inputs" with an object in the reply.')
        if not isinstance(text := rows[0].get("input"), str) or not text.strip():
            raise Unusable('There is no text "input" in the first object.')
        return text

    async def written() -> str:
        try:
            return await ask(client, request, read)
        finally:
            await known.connections.close()

    try:
        run_blocking(written, it.pause)
    except CallFailed as error:
        exam.fail("writer", str(error), 'Another one in the task file:\n[writer]\nmodel = "ENDPOINT/MODEL"')
    else:
        exam.ok("writer", f"{settings.writer.model} writes, {_how(known.calls[before:])}")
