"""Ledger, meter, prices."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from refine_rl.errors import GuardStop
from refine_rl.llm.client import Call
from refine_rl.llm.endpoints import resolve
from refine_rl.llm.ledger import Ledger, already_spent
from refine_rl.llm.meter import meter
from refine_rl.llm.prices import find_price, price_table
from refine_rl.settings import EndpointSettings, PriceSettings

CALL = Call(
    purpose="judge",
    endpoint="e",
    model="m",
    tokens_in=1,
    tokens_out=1,
    cost_usd=0.1,
    seconds=0.0,
    outcome="ok",
)


def test_an_attempt_is_open_until_its_line_is_written() -> None:
    seen: list[object] = []
    ledger = Ledger(
        lambda call: seen.append(call.outcome),
        sent=lambda ticket, killed: seen.append((ticket, killed.outcome)),
        done=lambda ticket: seen.append(("done", ticket)),
    )
    killed = replace(CALL, cost_usd=None, outcome="killed")
    first, second = ledger.send(killed), ledger.send(killed)
    assert (ledger.known_usd, ledger.unknown_calls) == (0.0, 0)  # not known before there is an outcome
    ledger.record(CALL, second)
    ledger.record(replace(CALL, outcome="cached"))
    ledger.record(CALL, first)
    assert seen == [(1, "killed"), (2, "killed"), "ok", ("done", 2), "cached", "ok", ("done", 1)]


def test_sums_are_exact() -> None:
    ledger = Ledger([].append, spent=0.3)
    with meter() as counted:
        for _ in range(1000):
            ledger.record(CALL)
    assert ledger.known_usd == 100.3
    assert (counted.calls, counted.cost_usd) == (1000, 100.0)


def test_an_unknown_cost_makes_a_meter_unknown_and_the_ledger_counts_it() -> None:
    ledger = Ledger([].append, unknown=2)
    with meter() as counted:
        ledger.record(CALL)
        ledger.record(replace(CALL, cost_usd=None))
        ledger.record(CALL)
    assert (counted.calls, counted.cost_usd) == (3, None)
    assert (ledger.known_usd, ledger.unknown_calls) == (0.2, 3)


def test_a_cached_reply_is_no_call() -> None:
    with meter() as counted:
        Ledger([].append).record(replace(CALL, outcome="cached", cost_usd=0.0))
    assert (counted.calls, counted.cost_usd) == (0, 0.0)


def test_meters_lie_in_each_other_and_in_tasks() -> None:
    ledger = Ledger([].append)

    async def one(times: int) -> int:
        with meter() as inner:
            for _ in range(times):
                await asyncio.sleep(0)
                ledger.record(CALL)
        return inner.calls

    async def work() -> list[int]:
        return await asyncio.gather(*(one(n) for n in (1, 2, 3)))

    with meter() as outer:
        assert asyncio.run(work()) == [1, 2, 3]
    ledger.record(CALL)
    assert outer.calls == 6


def test_threads_share_a_ledger() -> None:
    lines: list[Call] = []
    ledger = Ledger(lines.append)
    threads = [threading.Thread(target=lambda: [ledger.record(CALL) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(lines), ledger.known_usd) == (2000, 200.0)


def test_the_cap_counts_earlier_parts_of_the_run() -> None:
    Ledger([].append, dollars=1.0, spent=0.999).check()
    with pytest.raises(GuardStop, match=r"\$1\.00; budget\.dollars is 1"):
        Ledger([].append, dollars=1.0, spent=1.0).check()
    Ledger([].append, spent=1e6).check()


def test_what_was_lost_counts_for_the_cap_only() -> None:
    ledger = Ledger([].append, dollars=1.0)
    ledger.record(replace(CALL, cost_usd=None, extra={"estimated_usd": 0.95}))
    ledger.check()
    ledger.record(CALL)
    with pytest.raises(GuardStop, match="lost on the way"):
        ledger.check()
    assert ledger.known_usd == 0.1
    assert already_spent([{"cost_usd": None, "extra": {"estimated_usd": 0.95}}, {"cost_usd": 0.1}]) == (
        1.05,
        1,
    )


def price(model: str, settings: EndpointSettings | None = None, **environ: str) -> int | None:
    endpoints = {} if settings is None else {model.split("/")[0]: settings}
    found = find_price(resolve(model, endpoints, environ), model)
    return None if found is None else found(1000, 500)


def test_the_settings_price_by_model_then_by_star() -> None:
    settings = EndpointSettings(
        base_url="http://127.0.0.1:1/v1",
        prices={"org/m": PriceSettings(input=0.1, output=0.3), "*": PriceSettings(input=1, output=2)},
    )
    assert price("here/org/m", settings) == 1000 * 100 + 500 * 300
    assert price("here/other", settings) == 1000 * 1000 + 500 * 2000
    assert price("ollama/gpt-4o-mini") is None
    # Exactly between two billionths: the decimal price counts, not the binary number beside it.
    odd = EndpointSettings(
        base_url="http://127.0.0.1:1/v1", prices={"*": PriceSettings(input=0.0011, output=0)}
    )
    assert price("here/m", odd) == 1100
    found = find_price(resolve("here/m", {"here": odd}, {}), "here/m")
    assert found is not None
    assert [found(5, 0), found(15, 0), found(10**9, 0)] == [6, 16, 1_100_000_000]


def test_the_tables_price() -> None:
    known = price("openai/gpt-4o-mini", OPENAI_API_KEY="k")
    assert known is not None
    assert known > 0
    assert price("openrouter/openai/gpt-4o-mini", OPENROUTER_API_KEY="k") is not None
    assert price("openai/no-such-model-at-all", OPENAI_API_KEY="k") is None
    own = EndpointSettings(prices={"gpt-4o-mini": PriceSettings(input=1, output=1)})
    assert price("openai/gpt-4o-mini", own, OPENAI_API_KEY="k") == 1_500_000


def test_a_gateway_on_this_machine_costs_what_the_service_costs() -> None:
    service = price("openrouter/deepseek/deepseek-r1", OPENROUTER_API_KEY="k")
    gateway = EndpointSettings(base_url="http://127.0.0.1:1/v1")
    assert service is not None
    assert price("openrouter/deepseek/deepseek-r1", gateway) == service
    assert price("vllm/deepseek/deepseek-r1", gateway) is None  # a model of one's own
    assert price("here/gpt-4o-mini", gateway) is None


def test_advice_about_prices_is_one_table_an_endpoint_and_keeps_what_is_there() -> None:
    from refine_rl.settings.file import settings_from_dict

    own = {
        "mine": EndpointSettings(
            base_url="http://127.0.0.1:1/v1", prices={"a.b": PriceSettings(input=1, output=2)}
        )
    }
    models = ["mine/x/y", "openrouter/a/b", "mine/z", "openrouter/c d"]
    tables = tomllib.loads(price_table(models, own))["endpoints"]
    assert {name: list(table["prices"]) for name, table in tables.items()} == {
        "mine": ["a.b", "x/y", "z"],
        "openrouter": ["a/b", "c d"],
    }
    tables["mine"]["base_url"] = "http://127.0.0.1:1/v1"
    read = settings_from_dict({"task": "Be brief.", "endpoints": tables}, Path())
    assert read.endpoints["mine"].prices["a.b"] == own["mine"].prices["a.b"]


def test_the_tables_need_no_network_and_wait_until_they_are_asked() -> None:
    code = (
        "import socket, sys, refine_rl.cli, refine_rl.llm.connections as c\n"
        "assert 'genai_prices' not in sys.modules\n"
        "socket.socket.connect = socket.getaddrinfo = None\n"
        "from refine_rl.llm.endpoints import resolve\n"
        "m = 'openai/gpt-4o-mini'\n"
        "print(c.find_price(resolve(m, {}, {'OPENAI_API_KEY': 'k'}), m)(1000, 500))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
