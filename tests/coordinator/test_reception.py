import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from coordinator import control
from coordinator.authority import Authority
from coordinator.control import Hello, LeafIssued, LeafRefused, LeafRequest, Order, Reply, Report
from coordinator.reception import Link, Reception


class Caller:
    """The other end of the control socket, message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, message: control.Message) -> control.Message:
        self.writer.write(control.encode(message))
        return await control.read_message(self.reader)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


Call = Callable[[], Awaitable[Caller]]


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Call]:
    """Opens connections to the control socket, and closes them at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect() -> Caller:
            path = control.socket_path(tmp_path)
            caller = Caller(*await asyncio.open_unix_connection(path))
            stack.push_async_callback(caller.close)
            return caller

        yield connect


@pytest.fixture
async def reception(tmp_path: Path) -> AsyncIterator[Reception]:
    opened = Reception(tmp_path, Authority(tmp_path, ["a.example"]))
    await opened.start()
    yield opened
    await opened.close()


async def test_a_worker_is_welcomed_with_the_dialback_secret(
    reception: Reception, call: Call, tmp_path: Path
):
    met: list[Link] = []
    reception.on_hello = met.append
    caller = await call()
    welcome = await caller.ask(Hello("gw1/w1.a", 1))
    assert welcome == control.Welcome((tmp_path / "dialback.secret").read_bytes())
    # The kernel says who calls, not the caller.
    assert (met[0].worker, met[0].pid) == ("gw1/w1.a", os.getpid())
    assert control.socket_path(tmp_path).stat().st_mode & 0o777 == 0o600


async def test_leaves_are_issued_for_remote_domains_only(
    reception: Reception, call: Call, tmp_path: Path
):
    caller = await call()
    await caller.ask(Hello("gw1/w1.a", 1))
    leaf = await caller.ask(LeafRequest(5, "b.example", "route"))
    assert isinstance(leaf, LeafIssued) and leaf.request == 5
    assert isinstance(await caller.ask(LeafRequest(6, "a.example", "route")), LeafRefused)
    assert isinstance(await caller.ask(LeafRequest(7, "b.example", "fun")), LeafRefused)


async def test_reports_and_commands_pass_and_a_lost_worker_is_told(
    reception: Reception, call: Call, tmp_path: Path
):
    gone: asyncio.Queue[Link] = asyncio.Queue()
    reception.on_gone = gone.put_nowait
    ready: list[Link] = []
    reception.on_ready = ready.append
    caller = await call()
    await caller.ask(Hello("gw1/w1.a", 1))
    caller.writer.write(control.encode(Report({"routes": 3})))
    await caller.ask(LeafRequest(1, "b.example", "session"))  # answered after the report was read
    assert reception.links["gw1/w1.a"].report == {"routes": 3}
    caller.writer.write(control.encode(Report({"routes": 4})))
    await caller.ask(LeafRequest(2, "b.example", "session"))
    assert [link.report for link in ready] == [{"routes": 4}]  # once, at the first one
    reception.command_all("drain")
    assert await control.read_message(caller.reader) == control.Command("drain")
    caller.writer.close()
    assert (await gone.get()).worker == "gw1/w1.a"
    assert not reception.command("gw1/w1.a", "stop")


async def test_an_order_is_answered(reception: Reception, call: Call, tmp_path: Path):
    assert await (await call()).ask(Order("drain")) == Reply(False, "drain is not possible now")

    async def obey(order: Order) -> Reply:
        return Reply(True, order.argument)

    reception.on_order = obey
    assert await (await call()).ask(Order("drain", "w1")) == Reply(True, "w1")


@pytest.mark.parametrize("messages", [[Report({})], [Hello("gw1/w1.a", 1), Order("drain")]])
async def test_a_caller_that_breaks_the_rules_is_hung_up_on(
    reception: Reception, call: Call, messages: list[control.Message]
):
    caller = await call()
    for message in messages:
        caller.writer.write(control.encode(message))
    assert (await caller.reader.read()).count(b"welcome") == len(messages) - 1
    assert not reception.links


async def test_a_stale_socket_is_replaced(reception: Reception, call: Call, tmp_path: Path):
    successor = Reception(tmp_path, Authority(tmp_path))
    await successor.start()
    assert await (await call()).ask(Hello("gw1/w2.a", 1))
    assert "gw1/w2.a" in successor.links
    await successor.close()


async def test_workers_are_asked_and_one_that_does_not_answer_holds_nobody_up(
    reception: Reception, call: Call
):
    callers = {name: await call() for name in ("gw1/w1.a", "gw1/w2.a")}
    for name, caller in callers.items():
        await caller.ask(Hello(name, 1))

    async def answer() -> None:
        caller = callers["gw1/w1.a"]
        request = await control.read_message(caller.reader)
        assert isinstance(request, control.Request)
        assert (request.verb, request.argument) == ("ping", "b.example")
        caller.writer.write(control.encode(control.Answer(99, [{"of": "another question"}])))
        caller.writer.write(control.encode(control.Answer(request.request, [{"ok": True}])))

    answering = asyncio.create_task(answer())
    answers = await reception.ask_all("ping", "b.example", timeout=0.2)
    assert answers == {"gw1/w1.a": [{"ok": True}], "gw1/w2.a": None}
    await answering
    assert await reception.ask("gw1/w3.a", "ping", "", 1.0) is None
