"""What dead workers leave of their sessions, in a real Redis."""

from pathlib import Path

import msgspec
import pytest

from coordinator import lost_sessions
from coordinator.lost_sessions import LostSession, LostSessions
from coordinator.routes import DomainPair
from coordinator.store import Store, StoreUnavailable

SESSION = LostSession("a.example", "b.example", 7, 60, True)


@pytest.fixture
def kept(store: Store) -> LostSessions:
    def unexpected(exc: StoreUnavailable) -> None:
        raise exc

    return LostSessions(store, unexpected)


async def test_the_first_who_asks_gets_what_was_saved_last(kept: LostSessions) -> None:
    await kept.save([("id", SESSION)])
    newer = LostSession("a.example", "b.example", 9, 60, True)
    await kept.save([("id", newer), ("other", SESSION)])
    assert await kept.take("id") == newer
    assert await kept.take("id") is None
    assert (await kept.take("other") or newer).pair == DomainPair("a.example", "b.example")


async def test_it_is_kept_for_its_time_and_small(kept: LostSessions, store: Store) -> None:
    await kept.save([(f"{number} {'x' * 4000}", SESSION) for number in range(200)])
    keys = [key async for key in store._client.scan_iter("fedgate:session:*")]
    assert len(keys) == 200
    assert 0 < await store._client.ttl(keys[0]) <= 60
    assert await store._client.memory_usage(keys[0]) < 300


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"x" * 200_000,
        msgspec.msgpack.encode(["a", "b", -1, 60, True]),
        msgspec.msgpack.encode(["a", "b", 1 << 32, 60, True]),
        msgspec.msgpack.encode(["a", "b", 1, 0, True]),
        msgspec.msgpack.encode(["a", "b", "1", 60, True]),
    ],
)
async def test_what_is_not_ours_is_nothing(
    kept: LostSessions, store: Store, payload: bytes
) -> None:
    name = lost_sessions._name("id")
    await store._client.set(f"fedgate:session:{{{name}}}", payload)
    assert await kept.take("id") is None


async def test_nor_is_a_key_of_another_kind(kept: LostSessions, store: Store) -> None:
    await store._client.hset(f"fedgate:session:{{{lost_sessions._name('id')}}}", "a", "b")
    assert await kept.take("id") is None


async def test_without_redis_nothing_is_saved_and_nothing_found(tmp_path: Path) -> None:
    away: list[StoreUnavailable] = []
    kept = LostSessions(Store(f"unix://{tmp_path}/none.sock"), away.append)
    await kept.save([("id", SESSION)])
    assert await kept.take("id") is None
    assert len(away) == 2
