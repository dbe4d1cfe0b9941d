"""The scripted client, coroutines from plain code, texts, and what importing costs."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from refine_rl.errors import Interrupted, SettingsError
from refine_rl.llm.background import run_blocking
from refine_rl.llm.client import CallFailed, Reply, Request
from refine_rl.llm.meter import meter
from refine_rl.llm.scripted import Scripted, ScriptedConnections
from refine_rl.llm.texts import fill, load_text

REQUEST = Request(messages=({"role": "user", "content": "Hi."},), purpose="x")


def test_queued_replies_and_errors_come_in_order() -> None:
    client = Scripted(["a", Reply(text="b", cost_usd=0.5), CallFailed("no")], model="scripted/judge")
    assert client.model == "scripted/judge"
    with meter() as counted:
        assert asyncio.run(client.complete(REQUEST)).text == "a"
        assert counted.cost_usd is None
    with meter() as counted:
        assert asyncio.run(client.complete(REQUEST)).text == "b"
    assert (counted.calls, counted.cost_usd) == (1, 0.5)
    with pytest.raises(CallFailed, match="no"):
        asyncio.run(client.complete(REQUEST))
    with pytest.raises(RuntimeError, match="has only 3 replies"):
        asyncio.run(client.complete(REQUEST))
    assert client.requests == [REQUEST] * 4


def test_functions_may_be_async_and_give_errors() -> None:
    async def brain(request: Request) -> str | Exception:
        await asyncio.sleep(0)
        return CallFailed("never") if request.about else request.messages[0]["content"]

    client = Scripted(brain)
    assert asyncio.run(client.complete(REQUEST)).text == "Hi."
    with pytest.raises(CallFailed):
        asyncio.run(client.complete(Request(messages=REQUEST.messages, purpose="x", about="y")))


def test_connections() -> None:
    judge = Scripted(["a"])
    connections = ScriptedConnections({"scripted/judge": judge, "scripted/writer": ["b"]})
    assert connections.client("scripted/judge") is judge
    assert connections.client("scripted/writer") is connections.client("scripted/writer")
    assert connections.client("scripted/writer").model == "scripted/writer"
    with pytest.raises(SettingsError, match="scripted/judge, scripted/writer"):
        connections.client("scripted/other")
    asyncio.run(connections.close())


def test_blocking_from_plain_code_and_from_a_loop() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def notebook() -> int:
        return run_blocking(answer)

    assert run_blocking(answer) == 42
    assert asyncio.run(notebook()) == 42


def test_errors_come_through_and_context_goes_in() -> None:
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where")
    where.set("here")

    async def fails() -> None:
        raise KeyError(where.get())

    with pytest.raises(KeyError, match="here"):
        run_blocking(fails)


def test_a_pause_that_raises_cancels_and_waits_for_the_end() -> None:
    ended: list[str] = []
    calls = 0

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0.02)
            ended.append("tidied up")

    def pause() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Interrupted("stop")

    threads = set(threading.enumerate())
    with pytest.raises(Interrupted):
        run_blocking(long, pause)
    assert ended == ["cancelled", "tidied up"]
    assert calls == 2
    assert set(threading.enumerate()) <= threads


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Task: {{task}}, {{ task }}; {not} {{{n}}}\n\n", encoding="utf-8")
    template = load_text(tmp_path, "a.md")
    assert fill(template, {"task": "{{n}} \\1 é", "n": 3}) == "Task: {{n}} \\1 é, {{n}} \\1 é; {not} {3}"
    with pytest.raises(ValueError, match=r"\['n'\]"):
        fill(template, {"task": "x"})


def test_importing_the_room_is_cheap() -> None:
    room = sorted(Path("src/refine_rl/llm").glob("*.py"))
    names = [f"refine_rl.llm.{path.stem}" for path in room if path.stem != "__init__"]
    assert "refine_rl.llm.open_ai" in names
    code = (
        f"import sys, importlib as i\nfor n in {names!r}: i.import_module(n)\n"
        "print(sorted({'torch', 'openai', 'httpx2', 'genai_prices', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
