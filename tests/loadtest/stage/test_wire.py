"""The wire that tests speak on."""

import asyncio
from pathlib import Path

import pytest

from loadtest.stage.addresses import WEBSOCKET_PORT, Addresses
from loadtest.stage.authority import TestAuthority
from loadtest.stage.wire import Wire, WireClosed, dial, listen, tls_context


async def test_what_was_under_way_when_we_closed_comes_before_the_answer(tmp_path: Path) -> None:
    addresses, authority = Addresses(), TestAuthority(tmp_path)
    context = tls_context(authority.issue("one.example"))
    accepted: asyncio.Queue[Wire] = asyncio.Queue()
    address = addresses.of(1)
    server = await listen(address, WEBSOCKET_PORT, context, accepted.put, lambda _: None)
    wire = await dial("wss://one.example/", address, tls_context(None))
    (await accepted.get()).send("under way")
    wire.close(1000)
    assert await wire.receive() == "under way"
    with pytest.raises(WireClosed) as closed:
        await wire.receive()
    assert closed.value.code == 1000
    server.close()
    addresses.release()
