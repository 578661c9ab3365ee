from coordinator.config import Config
from coordinator.routes import Route, gateway_of, is_newer, may_take, slot_of, worker_id

OURS, THEIRS = "gw1/w1.a", "gw1/w2.b"


def test_a_pair_without_owner_may_be_taken():
    assert may_take(None, OURS, [])


def test_the_owner_keeps_its_pair():
    assert may_take(Route(OURS, 7), OURS, [OURS, THEIRS])


def test_a_live_owner_is_not_replaced_and_a_dead_one_is():
    assert not may_take(Route(THEIRS, 7), OURS, [OURS, THEIRS])
    assert may_take(Route(THEIRS, 7), OURS, [OURS])


def test_the_larger_epoch_supersedes():
    assert is_newer(Route(OURS, 8), Route(THEIRS, 7))
    assert not is_newer(Route(OURS, 7), Route(THEIRS, 7))


def test_a_worker_id_names_gateway_slot_and_incarnation(config: Config):
    worker = worker_id(config, "w3", 1.5)
    assert worker == "gw1/w3.5dc"
    assert (gateway_of(worker), slot_of(worker)) == ("gw1", "w3")
