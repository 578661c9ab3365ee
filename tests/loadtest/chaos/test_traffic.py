"""Traffic between two components whose servers are played by the test."""

import asyncio
from typing import Any, cast

import pytest

from loadtest.chaos.flow import Kind
from loadtest.chaos.traffic import Traffic
from loadtest.stage.component import Component
from loadtest.stage.processes import eventually

SERVERS = {"a.example": "prosody", "b.example": "ejabberd"}


class FakeComponent:
    """Keeps what it is given to write."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.is_open = True
        self.is_blocked = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def take(self) -> bytes:
        data, self.written = self.written, b""
        return data


class Town:
    """Two components and the traffic between them; run 7."""

    def __init__(self) -> None:
        self.now = 0.0
        self.a, self.b = (FakeComponent(domain) for domain in SERVERS)
        components = cast(Any, [self.a, self.b])
        self.traffic = Traffic(7, components, SERVERS, 20, clock=lambda: self.now)
        self.a_to_b, self.b_to_a = self.traffic.flows

    def send(self, count: int) -> bytes:
        """So many stanzas from a to b, as they were written."""
        for _ in range(count):
            self.traffic._originate(0, 1)
        return self.a.take()


@pytest.fixture
def town() -> Town:
    return Town()


def test_what_is_sent_arrives_whatever_way_it_is_cut(town: Town) -> None:
    data = town.send(3)
    town.now = 0.5
    for byte in range(len(data)):
        town.traffic.receive("b.example", data[byte : byte + 1])
    assert town.a_to_b.copies == b"\1\1\1"
    assert town.a_to_b.latencies(0, 1) == [0.5] * 3
    assert town.traffic.is_settled


def test_every_ninth_is_a_request_whose_result_is_a_stanza_of_the_other_flow(town: Town) -> None:
    town.traffic.receive("b.example", town.send(9))
    assert town.a_to_b.kinds[8] == Kind.REQUEST
    assert list(town.b_to_a.kinds) == [Kind.RESULT]
    assert not town.traffic.is_settled

    answer = town.b.take()
    assert b"type='result'" in answer
    assert b"id='7.0.8'" in answer
    town.traffic.receive("a.example", answer)
    assert town.b_to_a.copies == b"\1"
    assert town.traffic.is_settled


def test_a_request_that_comes_twice_is_executed_twice(town: Town) -> None:
    data = town.send(9)
    for _ in range(2):
        town.traffic.receive("b.example", data)
    assert len(town.a_to_b.repeated_requests()) == 1
    assert town.a_to_b.unmarked == 8


def test_a_late_copy_is_known_by_its_delay(town: Town) -> None:
    data = town.send(1)
    mark = b"<delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00Z'/></message>"
    town.traffic.receive("b.example", data + data.replace(b"</message>", mark))
    assert (town.a_to_b.marked, town.a_to_b.unmarked) == (1, 0)


def test_an_error_comes_back_with_or_without_the_payload(town: Town) -> None:
    town.send(2)
    town.now = 3.0
    for number in range(2):
        town.traffic.receive(
            "a.example",
            f"<message type='error' id='7.0.{number}' from='r@b.example' to='s@a.example'>"
            "<error type='wait'><remote-server-timeout "
            "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>".encode(),
        )
    assert town.a_to_b.conditions == {"remote-server-timeout": 2}
    assert not list(town.a_to_b.missing())
    assert town.traffic.is_settled


def test_a_stanza_of_an_earlier_run_is_a_stray(town: Town) -> None:
    data = town.send(1).replace(b"7.0.0", b"6.0.0")
    town.traffic.receive("b.example", data)
    error = b"<message type='error' id='6.0.0'><error/></message>"
    town.traffic.receive("a.example", error)
    assert town.traffic.strays == 2
    assert list(town.a_to_b.missing()) == [0]


def test_a_ping_to_the_component_is_answered(town: Town) -> None:
    ping = b"<iq type='get' from='b.example' to='a.example' id='p'><ping xmlns='urn:xmpp:ping'/>"
    town.traffic.receive("a.example", ping + b"</iq>")
    assert b"<iq type='result' from='a.example' to='b.example' id='p'>" in town.a.take()


@pytest.mark.parametrize("state", ["is_open", "is_blocked"])
def test_nothing_is_sent_while_the_server_does_not_take_it(town: Town, state: str) -> None:
    setattr(town.a, state, state == "is_blocked")
    assert town.send(4) == b""
    assert (town.traffic.withheld, town.traffic.sent) == (4, 0)


def test_what_a_lost_connection_cut_off_is_forgotten(town: Town) -> None:
    data = town.send(2)
    town.traffic.receive("b.example", data[:-5])
    town.traffic.forget_partial("b.example")
    town.traffic.receive("b.example", town.send(1))
    assert town.a_to_b.copies == b"\1\0\1"


async def test_the_rate_is_that_of_each_direction() -> None:
    town = Town()
    town.traffic._clock = asyncio.get_running_loop().time
    town.traffic._rate *= 100
    town.traffic.start()
    await eventually(lambda: len(town.a_to_b) >= 20, within=5, what="20 stanzas")
    await town.traffic.stop()
    # No results here: nobody answers.
    assert len(town.b_to_a) == len(town.a_to_b)


def test_components_are_those_of_the_stage() -> None:
    """The fake has what traffic uses of the real one."""
    real = Component("a.example", "127.0.0.1", "secret", lambda data: None)
    assert set(vars(FakeComponent("a.example"))) - {"written"} <= set(vars(real))
