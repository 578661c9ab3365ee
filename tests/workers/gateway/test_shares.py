"""Whose lost sessions are kept, and whose are let go."""

import random
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from coordinator.routes import DomainPair
from workers.gateway.shares import Lost, Shares

HONEST = DomainPair("local.example", "honest.example")
EVIL = DomainPair("local.example", "evil.example")


def filled(*lost: tuple[str, DomainPair, int]) -> Shares:
    shares = Shares()
    for id, pair, size in lost:
        shares.add(id, Lost(pair, size))
    return shares


def test_the_remote_with_most_sessions_loses_its_oldest() -> None:
    shares = filled(("a", HONEST, 9), ("b", EVIL, 0), ("c", EVIL, 0))
    assert shares.oldest_of_most() == "b"
    shares.discard("b")
    shares.add("d", Lost(HONEST, 0))
    assert shares.oldest_of_most() == "a" and len(shares) == 3


def test_the_pairs_of_a_remote_count_together() -> None:
    others = [(f"e{n}", DomainPair(f"l{n}.example", EVIL.remote), 1) for n in range(3)]
    shares = filled(("a", HONEST, 0), ("b", HONEST, 0), *others)
    assert shares.oldest_of_most() == "e0"
    assert (shares.count(HONEST), shares.count(others[0][1]), shares.count(EVIL)) == (2, 1, 0)


def test_the_remote_with_most_bytes_loses_its_oldest() -> None:
    shares = filled(("a", HONEST, 5), ("b", EVIL, 4), ("c", EVIL, 4), ("d", HONEST, 0))
    assert shares.oldest_of_largest() == "b" and shares.size == 13
    shares.discard("b")
    assert shares.oldest_of_largest() == "a" and shares.size == 9


def test_of_equals_the_one_that_has_some_for_longest_gives_way() -> None:
    shares = filled(("a", HONEST, 1), ("b", EVIL, 1))
    assert (shares.oldest_of_most(), shares.oldest_of_largest()) == ("a", "a")
    shares.discard("a")
    shares.add("c", Lost(HONEST, 1))
    assert (shares.oldest_of_most(), shares.oldest_of_largest()) == ("b", "b")


def test_a_session_counts_once_and_as_new_when_it_is_lost_again() -> None:
    shares = filled(("a", EVIL, 3), ("b", EVIL, 4))
    shares.add("a", Lost(EVIL, 5))
    assert (len(shares), shares.size, shares.count(EVIL)) == (2, 9, 2)
    assert shares.oldest_of(EVIL) == "b" == shares.oldest_of_most()
    shares.discard("unknown")
    assert "a" in shares and "unknown" not in shares


def test_of_nothing_there_is_no_oldest() -> None:
    shares = filled(("a", EVIL, 3))
    shares.discard("a")
    assert not shares and shares.size == 0 and shares.count(EVIL) == 0
    with pytest.raises(KeyError):
        shares.oldest_of(EVIL)
    for oldest in (shares.oldest_of_most, shares.oldest_of_largest):
        with pytest.raises(IndexError):
            oldest()


@pytest.mark.parametrize("seed", range(5))
def test_it_is_as_if_all_were_counted_anew(seed: int) -> None:
    chance = random.Random(seed)
    pairs = [DomainPair(f"l{n % 2}.example", f"r{n % 7}.example") for n in range(14)]
    shares, model = Shares(), dict[str, Lost]()
    for _ in range(2000):
        id = str(chance.randrange(60))
        if (lost := model.pop(id, None)) is not None and chance.random() < 0.6:
            shares.discard(id)
        else:
            lost = Lost(chance.choice(pairs), chance.randrange(50))
            shares.add(id, lost)
            model[id] = lost
        assert len(shares) == len(model) and shares.size == sum(x.size for x in model.values())
        if model:
            _compare(shares, model)


def _compare(shares: Shares, model: dict[str, Lost]) -> None:
    counts, sizes = dict[str, int](), dict[str, int]()
    for lost in model.values():
        remote = lost.pair.remote
        counts[remote] = counts.get(remote, 0) + 1
        sizes[remote] = sizes.get(remote, 0) + lost.size
    for found, amounts in ((shares.oldest_of_most(), counts), (shares.oldest_of_largest(), sizes)):
        remote = model[found].pair.remote
        assert amounts[remote] == max(amounts.values())
        assert found == next(id for id, lost in model.items() if lost.pair.remote == remote)
    pair = lost.pair
    ids = [id for id, lost in model.items() if lost.pair == pair]
    assert shares.oldest_of(pair) == ids[0] and shares.count(pair) == len(ids)


def calls_of(work: Callable[[], object]) -> int:
    """What `work` costs, whatever else the machine does: Python and C functions called."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event.endswith("call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("remotes", [1, 4000])
def test_a_loss_costs_no_more_when_many_are_kept(remotes: int) -> None:
    def lose(amount: int) -> Shares:
        shares = Shares()
        for n in range(amount):
            shares.add(str(n), Lost(DomainPair("l.example", f"r{n % remotes}.example"), n % 9))
            if n % 2:
                shares.discard(shares.oldest_of_most())
                shares.discard(shares.oldest_of_largest())
                shares.add(f"again {n}", Lost(HONEST, 1))
        return shares

    few, many = calls_of(lambda: lose(400)), calls_of(lambda: lose(8000))
    assert many < 1.5 * 20 * few
