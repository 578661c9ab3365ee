from collections.abc import Callable

import pytest

from coordinator.accounts import ACCEPTED, BOUNCED, Account, account_path
from coordinator.admin.overview import MAX_ERRORS, Overview, product_version
from coordinator.config import Config
from coordinator.embedded import EmbeddedRedis
from coordinator.reception import Link
from coordinator.routes import DomainPair
from coordinator.store import StoreUnavailable

Connect = Callable[..., Link]
SESSION = {"domain_pairs": [["a.example", "b.example"]], "direction": "outbound"}


def test_without_workers_nobody_accepts(overview: Overview):
    assert not overview.is_ready()
    assert overview.degraded() == ["worker:w1", "worker:w2"]
    assert [worker["state"] for worker in overview.workers()] == ["down", "down"]


def test_one_worker_is_enough_to_be_ready_and_the_other_is_missed(
    overview: Overview, connect: Connect
):
    connect(1, {"state": "running"})
    assert overview.is_ready()
    assert overview.degraded() == ["worker:w2"]


@pytest.mark.parametrize(("report", "age"), [({"state": "draining"}, 0.0), ({}, 60.0)])
def test_a_worker_that_drains_or_is_silent_does_not_count(
    overview: Overview, connect: Connect, report: dict[str, str], age: float
):
    connect(1, report, age=age)
    connect(2, {})
    assert overview.degraded() == ["worker:w1"]


def test_a_lost_redis_and_what_workers_miss_is_degraded_but_ready(
    overview: Overview, connect: Connect
):
    connect(1, {"degraded": ["redis", "certificate:a.example"]})
    connect(2, {})
    overview.redis_up = False
    assert overview.is_ready()
    assert overview.degraded() == ["certificate:a.example", "redis"]


def test_status_sums_the_workers(overview: Overview, connect: Connect):
    connect(1, {"sessions": 1, "routes": 2, "refused": {"slow": 1, "memory": 2}})
    more = {"restart_needed": ["websocket.path"], "refused": {"slow": 3}}
    connect(2, {"sessions": 2, "routes": 3, **more})
    status = overview.status()
    assert status["refused"] == {"memory": 2, "slow": 4}
    assert (status["sessions"], status["routes"]) == (3, 5)
    assert status["workers"] == {"configured": 2, "running": 2}
    assert status["redis"] == {"up": True, "url": "embedded"}
    assert status["domains"] == ["a.example"]
    assert status["restart_needed"] == ["websocket.path"]


def test_workers_show_the_contracts_fields_and_whatever_else_they_report(
    overview: Overview, connect: Connect
):
    connect(1, {"sessions": 1, "routes": 2, "rss_bytes": 5, "accepted_sockets": 9})
    first = overview.workers()[0]
    assert first["id"] == "gw1/w1.a"
    contract = ("pid", "state", "sessions", "routes", "rss_bytes", "accepted_sockets")
    assert [first[key] for key in contract] == [1, "running", 1, 2, 5, 9]


def test_a_worker_started_elsewhere_is_shown_too(overview: Overview):
    link = Link("gw1/w9.a", 999, None, 0.0, {"state": "running"})  # type: ignore[arg-type]
    overview._reception.links[link.worker] = link
    assert overview.workers()[-1]["id"] == "gw1/w9.a"


async def test_sessions_are_asked_for_and_carry_their_worker(
    overview: Overview, connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    async def ask_all(verb: str, most: str) -> dict[str, object]:
        assert (verb, most) in (("sessions", ""), ("sessions", "1"))
        return {"gw1/w1.a": [SESSION], "gw1/w2.a": None, "gw1/w3.a": [SESSION] if most else []}

    monkeypatch.setattr(overview._reception, "ask_all", ask_all)
    assert await overview.sessions() == [{"worker": "gw1/w1.a", **SESSION}]
    assert len(await overview.sessions(1)) == 1


def test_who_retires_is_shown_beside_its_successor(overview: Overview, connect: Connect):
    link = connect(1, {"state": "running"})
    slot = overview._workforce.slots[0]
    assert slot.current
    slot.retired.append(slot.current)
    slot.current.state, slot.current = "draining", None
    shown = [(worker["id"], worker["state"]) for worker in overview.workers()]
    assert shown == [("gw1/w1", "down"), ("gw1/w2", "down"), (link.worker, "draining")]


def test_errors_carry_their_worker(overview: Overview, connect: Connect):
    link = connect(1, {"errors": [{"at": 5.0, "text": "old"}, "odd"]})
    overview.note_error("redis", "gone")
    texts = [error["text"] for error in overview.errors()]
    assert texts == ["odd", "old", "gone"]
    overview.keep_errors(link)
    del overview._reception.links[link.worker]
    assert [error["text"] for error in overview.errors()] == texts


def test_errors_are_bounded(overview: Overview):
    for number in range(2 * MAX_ERRORS):
        overview.note_error("x", str(number))
    assert len(overview.errors()) == MAX_ERRORS
    assert overview.errors()[-1]["text"] == str(2 * MAX_ERRORS - 1)


async def test_routes_say_if_their_owner_lives(overview: Overview, redis: EmbeddedRedis):
    store = overview._store
    await store.heartbeat("gw1/w1.a", 60.0, {})
    await store.acquire(DomainPair("a.example", "c.example"), "gw1/w1.a", [])
    await store.acquire(DomainPair("a.example", "b.example"), "gw1/w2.a", [])
    shown = await overview.routes()
    assert [(route["remote"], route["live"]) for route in shown] == [
        ("b.example", False),
        ("c.example", True),
    ]
    await store.close()


async def test_without_redis_there_are_no_routes_to_show(overview: Overview):
    with pytest.raises(StoreUnavailable):
        await overview.routes()


def test_the_ledger_is_that_of_all_workers(overview: Overview, config: Config):
    for worker in ("gw1/w1.a", "gw1/w2.a"):
        account = Account.create(account_path(config.gateway.state_dir, worker))
        account.inbound[ACCEPTED] += 2
        account.inbound[BOUNCED] += 2
    assert overview.ledger()["inbound"]["accepted"] == 4


def test_the_configuration_is_shown_by_section(overview: Overview):
    assert overview.config()["gateway"]["name"] == "gw1"
    assert overview.starts() == 0
    assert product_version()
