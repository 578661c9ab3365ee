import pytest

from coordinator.placement import heir_for, owner_for, prefer_gateway
from coordinator.routes import DRAINING, DomainPair, WorkerInfo

WORKERS = [f"gw{gateway}/w{slot}.a" for gateway in (1, 2) for slot in (1, 2)]
PAIRS = [DomainPair("a.example", f"d{number}.example") for number in range(400)]


def test_all_who_ask_get_the_same_owner_in_any_order():
    assert [owner_for(pair, WORKERS) for pair in PAIRS] == [
        owner_for(pair, WORKERS[::-1]) for pair in PAIRS
    ]


def test_pairs_spread_over_all_workers():
    owners = [owner_for(pair, WORKERS) for pair in PAIRS]
    assert all(60 <= owners.count(worker) <= 140 for worker in WORKERS)


def test_a_lost_worker_moves_only_its_own_pairs():
    left = WORKERS[1:]
    for pair in PAIRS:
        if (owner := owner_for(pair, WORKERS)) != WORKERS[0]:
            assert owner_for(pair, left) == owner


def test_a_new_incarnation_is_placed_as_the_old_one():
    renewed = [worker.replace(".a", ".b") for worker in WORKERS]
    assert all(
        owner_for(pair, renewed) == owner_for(pair, WORKERS).replace(".a", ".b") for pair in PAIRS
    )


def test_without_workers_there_is_no_owner():
    with pytest.raises(ValueError, match="no live worker"):
        owner_for(PAIRS[0], [])


def test_the_own_machine_is_preferred_when_it_has_workers():
    assert prefer_gateway(WORKERS, "gw2") == WORKERS[2:]
    assert prefer_gateway(WORKERS, "gw9") == WORKERS


def test_the_heir_is_of_the_own_machine_and_does_not_drain():
    workers = {worker: WorkerInfo() for worker in WORKERS}
    for pair in PAIRS:
        assert heir_for(pair, "gw1/w1.a", workers) == owner_for(pair, WORKERS[:2])
        some = workers | {"gw1/w1.a": WorkerInfo(DRAINING)}
        assert heir_for(pair, "gw1/w1.a", some) == "gw1/w2.a"
        some |= {"gw1/w2.a": WorkerInfo(DRAINING)}
        assert heir_for(pair, "gw1/w1.a", some) == owner_for(pair, WORKERS[2:])
        drained = {worker: WorkerInfo(DRAINING) for worker in WORKERS}
        assert heir_for(pair, "gw1/w1.a", drained) == owner_for(pair, WORKERS[:2])
