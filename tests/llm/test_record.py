"""What was asked and replied is on record, with the outcome that it had once it was read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.llm.client import CallFailed, Reply, Request, Schema
from refine_rl.llm.ledger import last_id
from refine_rl.llm.meter import meter
from refine_rl.llm.open_ai import Pace
from refine_rl.llm.scripted import Scripted
from refine_rl.llm.structured import Unusable, ask
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import connect
from refine_rl.settings import EndpointSettings, Settings

KEY = "sk-very-secret"
SCHEMA = Schema(name="grade", schema={"type": "object", "properties": {"score": {"type": "number"}}})
StartServer = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Settings(task="t"))


def request(text: str = "How good?") -> Request:
    return Request(messages=({"role": "user", "content": text},), purpose="judge", about="p1", schema=SCHEMA)


def read(value: Any) -> float:
    if not isinstance(value.get("score"), float):
        raise Unusable("The score is no number.")
    return float(value["score"])


def talk(
    folder: RunFolder,
    server: Any,
    *texts: str,
    corrections: int = 2,
    reader: Callable[[Any], float] = read,
    **endpoint: Any,
) -> list[Any]:
    """What asking each of `texts` in turn came to: a value, or the failure's text."""
    settings = Settings(
        task="t",
        endpoints={
            "here": EndpointSettings(
                **{"base_url": server.base_url, "key_env": "KEY", "cache": False, "retries": 1, **endpoint}
            )
        },
    )
    connections = connect(settings, folder, lambda note: None)
    connections._environ = {"KEY": KEY}
    connections._pace = Pace(base=0.002, busy=0.002, longest=0.01)
    found: list[Any] = []

    async def all_of_them() -> None:
        client = connections.client("here/judge")
        for text in texts or ("How good?",):
            try:
                found.append(await ask(client, request(text), reader, corrections=corrections))
            except CallFailed as error:
                found.append(str(error))
        await connections.close()

    asyncio.run(all_of_them())
    return found


def test_a_reply_that_could_not_be_used_is_an_outcome_of_its_own(
    folder: RunFolder, llm_server: StartServer
) -> None:
    replies = iter(['{"score": "high"}', "Very good!", '{"score": 0.5}'])
    server = llm_server(brain=lambda body: next(replies), cost=0.25)
    with meter() as counted:
        assert talk(folder, server) == [0.5]
    calls = folder.calls()
    assert [(c["id"], c["outcome"], c["cost_usd"]) for c in calls] == [
        (1, "unusable", 0.25),
        (2, "unusable", 0.25),
        (3, "ok", 0.25),
    ]
    assert calls[0]["extra"]["error"] == "The score is no number."
    assert "error" not in calls[2]["extra"]
    assert (counted.calls, counted.unusable, counted.cost_usd) == (3, 2, 0.75)
    first, second, third = folder.exchanges()
    assert [e["id"] for e in (first, second, third)] == [1, 2, 3]
    assert first["messages"] == [{"role": "user", "content": "How good?"}]
    assert (first["reply"], first["outcome"], first["form"]) == ('{"score": "high"}', "unusable", "schema")
    assert (first["purpose"], first["about"], first["model"]) == ("judge", "p1", "here/judge")
    assert second["messages"][1] == {"role": "assistant", "content": '{"score": "high"}'}
    assert "The score is no number." in second["messages"][2]["content"]
    assert (third["reply"], third["error"]) == ('{"score": 0.5}', "")


@pytest.mark.parametrize(
    ("mood", "outcome"), [("cut", "cut"), ("refusal", "refusal"), ("ok", "unusable"), ("503", "server error")]
)
def test_every_way_to_come_to_nothing_says_what_went_wrong(
    folder: RunFolder, llm_server: StartServer, mood: str, outcome: str
) -> None:
    server = llm_server(brain=lambda body: '{"score": "high"}', moods=["ok", mood])
    server.brain = lambda body: '{"score": 0.25}' if len(server.requests) == 1 else '{"score": "high"}'
    found = talk(folder, server, "one", "two", corrections=0)
    assert found[0] == 0.25
    calls = folder.calls()
    assert calls[0]["outcome"] == "ok"
    assert calls[1]["outcome"] == outcome
    assert calls[1]["extra"]["error"]
    exchanges = list(folder.exchanges())
    assert [e["id"] for e in exchanges] == [c["id"] for c in calls]
    assert (exchanges[1]["reply"] is None) == (mood == "503")
    assert exchanges[1]["messages"][0]["content"] == "two"


def test_a_cut_reply_that_can_be_used_is_no_failure(folder: RunFolder, llm_server: StartServer) -> None:
    padded = '{"score": 0.5}' + " " * 14
    assert talk(folder, llm_server(brain=lambda body: padded, moods="cut")) == [0.5]
    assert [(c["outcome"], "error" in c["extra"]) for c in folder.calls()] == [("cut", False)]


def test_a_reply_from_the_cache_is_on_record_too(folder: RunFolder, llm_server: StartServer) -> None:
    server = llm_server(brain=lambda body: '{"score": 0.5}')
    assert talk(folder, server, "same", "same", cache=True) == [0.5, 0.5]
    assert [(e["id"], e["outcome"], e["reply"]) for e in folder.exchanges()] == [
        (1, "ok", '{"score": 0.5}'),
        (2, "cached", '{"score": 0.5}'),
    ]


def test_no_key_is_ever_kept(folder: RunFolder, llm_server: StartServer) -> None:
    """Neither one that the model says, nor one in a question, nor one in an error."""
    said = iter([f"Your key is {KEY}.", '{"score": 0.5}'])
    server = llm_server(brain=lambda body: next(said), moods=["500", "ok", "ok"])
    assert talk(folder, server, f"Is {KEY} a good key?") == [0.5]
    assert len(list(folder.exchanges())) == 3
    assert any("***" in e["reply"] for e in folder.exchanges() if e["reply"])
    assert "Is *** a good key?" in next(folder.exchanges.lines())["messages"][0]["content"]
    for file in folder.path.rglob("*"):
        assert not file.is_file() or KEY not in file.read_text(), file


def test_a_setting_turns_it_off(folder: RunFolder, llm_server: StartServer) -> None:
    server = llm_server(brain=lambda body: "nothing")
    talk(folder, server, record=False)
    assert {c["outcome"] for c in folder.calls()} == {"unusable"}  # still counted
    assert list(folder.exchanges()) == []
    assert not list(folder.path.glob("*replies*"))


def test_numbers_go_on_where_an_earlier_process_stopped(folder: RunFolder, llm_server: StartServer) -> None:
    server = llm_server(brain=lambda body: '{"score": 0.5}')
    talk(folder, server, "one", "two")
    talk(folder, server, "three")
    assert [c["id"] for c in folder.calls()] == [1, 2, 3] == [e["id"] for e in folder.exchanges()]
    # Calls that were under way at a kill have numbers of their own; so has the next process.
    call = folder.calls()[-1] | {"outcome": "killed", "id": 4}
    with (folder.path / ".calls_under_way.jsonl").open("a") as file:
        file.write(json.dumps({"ticket": 4, "call": call}) + "\n")
    folder.repair()
    talk(folder, server, "five")
    assert [c["id"] for c in folder.calls()] == [1, 2, 3, 4, 5]
    assert [e["id"] for e in folder.exchanges()] == [1, 2, 3, 5]


def test_a_torn_line_goes_and_the_rest_stays_to_the_byte(folder: RunFolder, llm_server: StartServer) -> None:
    server = llm_server(brain=lambda body: json.dumps({"score": 0.5, "why": "ü" * 90_000}))
    talk(folder, server, "one", "two")
    (file,) = folder.path.glob("*replies*")
    whole = file.read_bytes()
    for torn in (b'{"id": 3, "purp', b"x" * 200_000, b""):
        file.write_bytes(whole + torn)
        assert [e["id"] for e in folder.exchanges()] == [1, 2]
        folder.repair()
        assert file.read_bytes() == whole
    file.write_bytes(b"torn")
    folder.repair()
    assert file.read_bytes() == b""


def test_going_back_in_training_keeps_what_was_asked(folder: RunFolder, llm_server: StartServer) -> None:
    talk(folder, llm_server(brain=lambda body: '{"score": 0.5}'))
    folder.rewind(0)
    assert len(list(folder.exchanges())) == len(folder.calls()) == 1


def test_a_defect_of_the_reader_costs_no_line(folder: RunFolder, llm_server: StartServer) -> None:
    def broken(value: Any) -> float:
        return 1.0 / (value["score"] - 0.5)

    with pytest.raises(ZeroDivisionError):
        talk(folder, llm_server(brain=lambda body: '{"score": 0.5}'), reader=broken)
    assert len(folder.calls()) == len(list(folder.exchanges())) == 1


def test_calls_of_before_they_had_numbers_count() -> None:
    assert last_id([]) == 0
    assert last_id([{"purpose": "judge"}] * 3) == 3
    assert last_id([{"id": 7}, {"id": 2}]) == 7


def test_a_scripted_model_counts_alike() -> None:
    client = Scripted(["no", '{"score": 0.5}'])
    with meter() as counted:
        assert asyncio.run(ask(client, request(), read)) == 0.5
    assert (counted.calls, counted.unusable) == (2, 1)
    assert Request(messages=(), purpose="x").fault is None
    assert request() == request()  # what reads a reply does not make another request
    assert client.requests[0].fault is not None
    assert client.requests[0].fault(Reply(text='{"score": 0.5}')) == ""
