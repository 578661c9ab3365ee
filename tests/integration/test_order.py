"""Bursts: order kept, nothing lost, nothing doubled, and the ledger adds up to the last stanza."""

import asyncio
from typing import Any

import pytest

from loadtest.stage.gateway import Gateway
from loadtest.stage.stage import Stage
from loadtest.stage.users import User

BURST = 5_000
# Enough at once to fill every batch on the way, few enough for the clients' own buffers.
CHUNK = 200


@pytest.mark.timeout(240)
async def test_a_burst_in_each_direction_arrives_in_order(
    stage: Stage, juliet: User, romeo: User
) -> None:
    # The streams are open before the burst: at their opening Prosody overtakes itself (see
    # workers/gateway/beginning.py).
    for sender, recipient in ((juliet, romeo), (romeo, juliet)):
        sender.send(recipient.jid, "before the burst", id="before")
        await recipient.message("before the burst", within=30)
    before = [await gateway.wait_settled() for gateway in stage.gateways]

    await asyncio.gather(
        _send_burst(juliet, romeo),
        _send_burst(romeo, juliet),
        _receive_burst(romeo, juliet.jid),
        _receive_burst(juliet, romeo.jid),
    )

    after = [await gateway.wait_settled(within=30) for gateway in stage.gateways]
    for old, new, gateway in zip(before, after, stage.gateways, strict=True):
        _assert_counted(gateway, old, new)


async def _send_burst(sender: User, recipient: User) -> None:
    for start in range(0, BURST, CHUNK):
        for number in range(start, start + CHUNK):
            sender.send(recipient.jid, f"burst {number}", id=f"burst-{number}")
        await asyncio.sleep(0)


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of ascending numbers, first and last of each."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


async def _receive_burst(recipient: User, sender: str) -> None:
    numbers: list[int] = []
    while len(numbers) < BURST:
        message = await recipient.inbox.take(
            lambda s: s.name == "message" and s.id.startswith("burst-"), within=60
        )
        assert (message.type, message.sender, message.is_delayed) == ("chat", sender, False)
        numbers.append(int(message.id.removeprefix("burst-")))
    assert runs(numbers) == [(0, BURST - 1)], f"what {recipient.jid} heard"
    assert not recipient.inbox.peek(lambda s: s.id.startswith("burst-"))


def _assert_counted(gateway: Gateway, old: dict[str, Any], new: dict[str, Any]) -> None:
    for direction in ("outbound", "inbound"):
        counts = new[direction]
        grown = {
            key: value - old[direction][key]
            for key, value in counts.items()
            if isinstance(value, int)
        }
        assert grown["accepted"] == grown["acknowledged"] >= BURST, (gateway.name, direction, grown)
        assert grown["bounced"] == grown["returned"] == grown["replayed"] == 0
        assert counts["dropped"] == old[direction]["dropped"]
        assert counts["in_flight"] == 0
        ended = counts["acknowledged"] + counts["bounced"] + counts["returned"]
        assert counts["accepted"] == ended + sum(counts["dropped"].values())
