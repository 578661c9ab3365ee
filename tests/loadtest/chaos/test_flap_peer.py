"""The load peer as a process: sessions of many domains, told what to do by lines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtest.chaos.flap import Peers
from loadtest.stage.addresses import Addresses
from loadtest.stage.authority import KeyPair, TestAuthority
from loadtest.stage.peers import FRAMING, SASL
from loadtest.stage.processes import eventually
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context

CLIENT = "capulet.example"


class Town:
    def __init__(self, address: str, certificate: KeyPair) -> None:
        self.address = address
        self.certificate = certificate
        self.peers = Peers(address, certificate)

    async def session(self, domain: str) -> Wire:
        """An authenticated session with stream management."""
        wire = await dial(
            "wss://peer.flap.example/xmpp-s2s", self.address, tls_context(self.certificate)
        )
        for step, answers in (
            (f"<open xmlns='{FRAMING}' from='{CLIENT}' to='{domain}' version='1.0'/>", 2),
            (f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>", 1),
            (f"<open xmlns='{FRAMING}' from='{CLIENT}' to='{domain}' version='1.0'/>", 2),
            ("<enable xmlns='urn:xmpp:sm:3'/>", 1),
        ):
            wire.send(step)
            for _ in range(answers):
                answer = await wire.receive()
        assert answer.startswith("<enabled")
        return wire


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    addresses = Addresses()
    town = Town(addresses.of(41), TestAuthority(tmp_path).issue("*.flap.example"))
    try:
        await town.peers.start()
        yield town
    finally:
        await town.peers.stop()
        addresses.release()


async def test_it_takes_the_stanzas_of_many_domains(town: Town) -> None:
    wires = [await town.session(f"d{n}.flap.example") for n in range(3)]
    for n, wire in enumerate(wires):
        wire.send(f"<message id='f.{n}.0' to='r@d{n}.flap.example'><body/></message>")
        wire.send("<r xmlns='urn:xmpp:sm:3'/>")
        assert await wire.receive() == "<a xmlns='urn:xmpp:sm:3' h='1'/>"
    answer = await town.peers.tell("report")
    assert answer["sessions"] == answer["accepted"] == 3
    assert [id for id, _ in answer["stanzas"]] == ["f.0.0", "f.1.0", "f.2.0"]
    assert (await town.peers.tell("report"))["stanzas"] == []
    for wire in wires:
        wire.end()


async def test_it_cuts_all_and_accepts_again(town: Town) -> None:
    wire = await town.session("d1.flap.example")
    await town.peers.tell("cut")
    with pytest.raises(WireClosed):
        await wire.receive()
    with pytest.raises(OSError):
        await town.session("d1.flap.example")
    await town.peers.tell("accept")
    again = await town.session("d1.flap.example")
    again.end()
    await eventually(lambda: again._transport is not None, within=10, what="made")
