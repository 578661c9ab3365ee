"""Remote domains against a bare echo, with real sockets and TLS."""

import asyncio

from loadtest.load import messages
from loadtest.load.account import Account
from loadtest.load.certificates import LoadAuthority
from loadtest.load.domain import MOST_WAITING, RemoteDomain
from loadtest.load.fleet import Fleet
from tests.loadtest.load.endpoint import SINK, Endpoint, eventually

ECHO, ROOM = f"echo@{SINK}", f"room1@{SINK}"


async def connected(fleet: Fleet, count: int) -> list[RemoteDomain]:
    domains = [fleet.new_domain() for _ in range(count)]
    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        for domain in domains:
            group.create_task(domain.connect())
    return domains


def all_came(account: Account, count: int) -> bool:
    return (account.sent, account.delivered, account.doubled, account.reordered) == (
        *(count, count),
        *(0, 0),
    )


async def test_all_that_is_sent_comes_back_in_order(fleet: Fleet) -> None:
    domains = await connected(fleet, 3)
    for _ in range(20):
        for domain in domains:
            domain.send_message("chat", ECHO, "hello")
            domain.send_ping("iq ping", ECHO)
            domain.send_presence("presence", ECHO)
        await asyncio.sleep(0)
    await fleet.stop()
    accounts = fleet.ledger.record.accounts
    assert set(accounts) == {"chat", "iq ping", "presence"}
    assert all(all_came(each, 60) for each in accounts.values())
    assert len(accounts["chat"].latency) == 60
    names = [each.name for each in fleet.outcomes]
    assert (names.count("connect"), names.count("chat")) == (3, 60)


async def test_a_room_copies_to_all_members(fleet: Fleet) -> None:
    domains = await connected(fleet, 3)
    for domain in domains:
        domain.join("copy", ROOM)
    await asyncio.gather(*(domain.settle() for domain in domains))
    domains[0].send_message("room", ROOM, "to all", "groupchat")
    domains[1].send_message("room", ROOM, "to all", "groupchat")
    await fleet.stop()
    accounts = fleet.ledger.record.accounts
    assert all_came(accounts["room"], 2)
    assert all_came(accounts["copy"], 6)
    assert len(accounts["copy"].latency) == 6


async def test_who_retires_has_left_its_rooms(fleet: Fleet) -> None:
    first, second = await connected(fleet, 2)
    for domain in (first, second):
        domain.join("copy", ROOM)
    await asyncio.gather(first.settle(), second.settle())
    fleet.retire(second)
    await eventually(lambda: not second.link.is_open)
    first.send_message("room", ROOM, "to who is left", "groupchat")
    await fleet.stop()
    accounts = fleet.ledger.record.accounts
    assert all_came(accounts["copy"], 1)
    assert all_came(accounts["leave"], 2)


async def test_one_gets_what_all_write_to_it(fleet: Fleet) -> None:
    domains = await connected(fleet, 3)
    for domain in domains:
        domain.send_message("many to one", f"relay@{SINK}/{domains[0].name}", "hello")
    await fleet.stop()
    assert all_came(fleet.ledger.record.accounts["many to one"], 3)


async def test_a_cut_session_is_opened_again_and_what_was_on_its_way_is_known(
    fleet: Fleet,
) -> None:
    (domain,) = await connected(fleet, 1)
    domain.send_message("chat", ECHO, "before")
    await domain.settle()
    domain.link.cut()
    await domain.link.wait_closed()
    domain.send_message("chat", ECHO, "while it is away")
    await domain.connect()
    await fleet.stop()
    assert all_came(fleet.ledger.record.accounts["chat"], 2)
    assert fleet.ledger.record.ends == {"cut by the load test": 1}
    assert [each.name for each in fleet.outcomes if each.name != "chat"] == ["connect", "reconnect"]


async def test_a_session_is_closed_in_order_and_opened_anew(fleet: Fleet) -> None:
    (domain,) = await connected(fleet, 1)
    domain.send_message("chat", ECHO, "before")
    await domain.reconnect()
    domain.send_message("chat", ECHO, "after")
    await fleet.stop()
    assert all_came(fleet.ledger.record.accounts["chat"], 2)
    assert fleet.ledger.record.ends == {}


async def test_a_slow_reader_gets_everything_later(fleet: Fleet) -> None:
    (domain,) = await connected(fleet, 1)
    domain.read_slowly(0.2, "slow chat", period=0.5)
    await asyncio.sleep(0.1)
    domain.send_message("slow chat", ECHO, "hello")
    await domain.settle()
    account = fleet.ledger.record.accounts["slow chat"]
    assert all_came(account, 1)
    latency = account.latency.percentile(1)
    assert latency is not None
    assert latency > 100
    # Its latency is known, and is not held against the others.
    assert not any(len(each.latency) for each in fleet.ledger.record.seconds.values())


async def test_attacks_are_counted_apart_from_stanzas(fleet: Fleet) -> None:
    fleet.note_attack("oversize", 0.1, "")
    fleet.note_attack("oversize", 0.1, "it was taken")
    record = fleet.ledger.record
    assert (record.attacks, record.unrefused) == ({"oversize": 2}, {"oversize": 1})
    assert record.accounts == {}
    assert [each.name for each in fleet.outcomes] == 2 * ["attack: oversize"]


async def test_an_endpoint_that_is_away_is_waited_for(
    authority: LoadAuthority, endpoint: Endpoint
) -> None:
    fleet = Fleet(endpoint.settings(address=("127.0.0.1", 1), settle=0.5), authority, "run")
    await fleet.start()
    domain = fleet.new_domain()
    for _ in range(MOST_WAITING + 5):
        domain.send_message("chat", ECHO, "hello")
    domain.link.start()
    await eventually(lambda: fleet.ledger.record.refusals)
    await fleet.stop()
    account = fleet.ledger.record.accounts["chat"]
    assert (account.sent, account.returned, account.lost) == (MOST_WAITING, MOST_WAITING, 0)
    assert domain.withheld == 5


async def test_the_endpoint_may_come_to_us(authority: LoadAuthority, endpoint: Endpoint) -> None:
    """Answers on sessions of its own, and dialback: see the integration tests for both ways."""
    fleet = Fleet(endpoint.settings(listen=("127.0.0.1", 0)), authority, "run")
    await fleet.start()
    other = Fleet(
        endpoint.settings(
            url="wss://d0.load.example/xmpp-s2s", address=fleet.listening, target="d0.load.example"
        ),
        authority,
        "other",
    )
    (known,) = await connected(fleet, 1)
    await other.start()
    visitor = RemoteDomain("d9.visitor.example", other)
    async with asyncio.timeout(10):
        await visitor.connect()
    flow = fleet.ledger.new_flow()
    id = fleet.ledger.send(flow, "asked before")
    visitor.link.send(messages.message(visitor.jid, known.jid, id, "the answer"))
    await eventually(lambda: not flow.waiting)
    visitor.link.close()
    await visitor.link.wait_closed()
    await other.stop()
    await fleet.stop()
    assert all_came(fleet.ledger.record.accounts["asked before"], 1)
