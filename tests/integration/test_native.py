"""A third, ordinary Prosody without a gateway stays reachable both ways, whatever is down."""

import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.stage.stage import ESCALUS, MANTUA, Stage
from loadtest.stage.users import User
from loadtest.stage.website import Website, host_meta
from tests.integration.conversation import talk, talk_again


@pytest.fixture(params=["prosody", "ejabberd"])
def local(request: pytest.FixtureRequest, juliet: User, romeo: User) -> User:
    """A user behind a gateway, on either server."""
    return juliet if request.param == "prosody" else romeo


async def test_the_ordinary_server_is_reached_both_ways(
    stage: Stage, local: User, friar: User
) -> None:
    await talk(local, friar)
    for gateway in stage.gateways:
        assert not await gateway.sessions(ESCALUS)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def broken_website(stage: Stage) -> AsyncIterator[Website]:
    """mantua.example advertises a wss endpoint, but nobody speaks WebSocket there."""
    address = stage.actor_address(100)
    document = host_meta(f"wss://{MANTUA}/nothing-here", address, MANTUA)
    website = Website(address, stage.authority.issue(MANTUA), document)
    await website.start()
    stage.dns.set(MANTUA, "A", address)
    try:
        yield website
    finally:
        stage.dns.set(MANTUA, "A", stage.escalus.address)
        await website.stop()


async def test_an_advertised_but_broken_websocket_falls_back_to_native(
    stage: Stage, local: User, broken_website: Website
) -> None:
    broken_website.requests.clear()
    page = await stage.login(f"page@{MANTUA}/road")
    await talk(local, page, within=30)
    assert "/nothing-here" in broken_website.requests
    await page.logout()


async def test_it_is_reached_while_the_coordinators_are_down(
    stage: Stage, local: User, friar: User
) -> None:
    try:
        for gateway in stage.gateways:
            await gateway.kill()
        await stage.escalus.restart()
        await friar.connect()
        await talk_again(local, friar)
    finally:
        for gateway in stage.gateways:
            await gateway.start()


async def test_the_gateways_talk_on_while_the_coordinators_are_down(
    stage: Stage, juliet: User, romeo: User
) -> None:
    await talk(juliet, romeo)
    try:
        for gateway in stage.gateways:
            await gateway.kill()
        await talk(juliet, romeo, within=5)
    finally:
        for gateway in stage.gateways:
            await gateway.start()
    await talk_again(juliet, romeo)


async def test_it_is_reached_while_redis_is_down(
    stage: Stage, local: User, juliet: User, romeo: User, friar: User
) -> None:
    await talk(juliet, romeo)
    stopped = [gateway.redis_pid() for gateway in stage.gateways]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await stage.escalus.restart()
        await friar.connect()
        await talk_again(local, friar)
        await talk(juliet, romeo)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    await talk_again(juliet, romeo)
