from hypothesis import given
from hypothesis import strategies as st

from coordinator.config import Config
from coordinator.placement import heir_for
from coordinator.routes import (
    DRAINING,
    RUNNING,
    Decision,
    DomainPair,
    HandTo,
    Lost,
    Route,
    Serve,
    ServeBeside,
    SpliceTo,
    Take,
    Wait,
    WorkerInfo,
    decide,
    gateway_of,
    is_newer,
    reconcile,
    slot_of,
    worker_id,
    worker_info,
)

OURS, THEIRS, FAR = "gw1/w1.a", "gw1/w2.b", "gw2/w1.c"
RUNS, DRAINS = WorkerInfo(RUNNING, "10.0.0.1:5271"), WorkerInfo(DRAINING, "10.0.0.1:5271")
ALL = {OURS: RUNS, THEIRS: RUNS, FAR: RUNS}
PAIR = DomainPair("a.example", "b.example")


# What a worker does with a stream.


def test_a_pair_without_owner_is_taken_by_its_heir():
    assert decide(None, OURS, ALL, heir=OURS) == Take(None)
    assert decide(None, OURS, ALL, heir=THEIRS) == HandTo(THEIRS)
    assert decide(None, OURS, ALL, heir=FAR) == SpliceTo(FAR, "10.0.0.1:5271")


def test_a_dead_owner_is_replaced_by_the_heir():
    dead = Route("gw1/w9.z", 7)
    assert decide(dead, OURS, ALL, heir=OURS) == Take(dead)
    assert decide(dead, OURS, ALL, heir=THEIRS) == HandTo(THEIRS)


def test_a_stream_that_was_passed_to_us_is_not_passed_on_to_another_heir():
    assert decide(None, OURS, ALL, heir=THEIRS, passed=1) == Take(None)
    assert decide(None, OURS, ALL | {OURS: DRAINS}, heir=THEIRS, passed=1) == HandTo(THEIRS)


def test_a_live_owner_gets_the_stream():
    assert decide(Route(OURS, 7), OURS, ALL, heir=THEIRS) == Serve(Route(OURS, 7))
    assert decide(Route(THEIRS, 7), OURS, ALL, heir=OURS) == HandTo(THEIRS)
    assert decide(Route(FAR, 7), OURS, ALL, heir=OURS) == SpliceTo(FAR, "10.0.0.1:5271")


def test_a_draining_owner_is_waited_for_by_the_heir():
    workers = ALL | {THEIRS: DRAINS, FAR: DRAINS}
    for owner in (THEIRS, FAR):
        assert decide(Route(owner, 7), OURS, workers, heir=OURS) == Wait(Route(owner, 7))
    assert decide(Route(THEIRS, 7), THEIRS, workers, heir=OURS) == HandTo(OURS)


def test_when_all_drain_the_owner_serves_and_nobody_waits_for_others():
    assert decide(Route(OURS, 7), OURS, {OURS: DRAINS}, heir=OURS) == Serve(Route(OURS, 7))
    assert decide(None, OURS, {OURS: DRAINS}, heir=OURS) == Take(None)


def test_an_owner_that_cannot_be_reached_from_here_is_waited_for():
    workers = ALL | {FAR: WorkerInfo()}
    assert decide(Route(FAR, 7), OURS, workers, heir=OURS) == Wait(Route(FAR, 7))


def test_a_stream_changes_hands_only_so_often():
    assert decide(Route(THEIRS, 7), OURS, ALL, heir=OURS, passed=3) == Wait(Route(THEIRS, 7))


def test_a_stream_from_another_machine_never_leaves_again():
    assert decide(None, OURS, ALL, heir=FAR, from_gateway=True) == Take(None)


def test_a_stream_said_to_be_from_another_machine_takes_no_pair_from_an_owner_that_is_well():
    route, ours = Route(FAR, 7), Route(THEIRS, 7)
    assert decide(route, OURS, ALL, heir=OURS, from_gateway=True) == ServeBeside(route)
    assert decide(ours, OURS, ALL, heir=OURS, from_gateway=True) == HandTo(THEIRS)
    passed_on = decide(ours, OURS, ALL, heir=OURS, passed=3, from_gateway=True)
    assert passed_on == ServeBeside(ours)
    drains = ALL | {FAR: DRAINS}
    assert decide(route, OURS, drains, heir=OURS, from_gateway=True) == Wait(route)


NAMES = st.builds("gw{}/w{}.{}".format, st.integers(1, 3), st.integers(1, 3), st.sampled_from("ab"))
INFOS = st.builds(
    WorkerInfo, st.sampled_from([RUNNING, DRAINING]), st.sampled_from(["", "10.0.0.1:5271"])
)
ROUTES = st.none() | st.builds(Route, NAMES, st.integers(0, 9))


@given(NAMES, st.dictionaries(NAMES, INFOS, max_size=8), ROUTES, st.integers(0, 4), st.booleans())
def test_any_decision_keeps_the_rules(me, others, route, passed, from_gateway):
    workers = others if me in others else others | {me: WorkerInfo()}
    heir = heir_for(PAIR, me, workers)
    decision = decide(route, me, workers, heir=heir, passed=passed, from_gateway=from_gateway)
    match decision:
        case Serve(found):
            assert found == route and route.owner == me
        case Take(replacing):
            assert replacing == route and (route is None or route.owner not in workers)
        case Wait(found):
            assert found == route and route.owner in workers and route.owner != me
            assert not from_gateway or workers[route.owner].state == DRAINING
        case ServeBeside(found):
            assert found == route and route.owner != me and from_gateway
            assert workers[route.owner].state == RUNNING
        case HandTo(worker):
            assert worker in workers and worker != me and passed < 3
            assert gateway_of(worker) == gateway_of(me)
        case SpliceTo(worker, address):
            assert gateway_of(worker) != gateway_of(me) and not from_gateway
            assert address == workers[worker].local != ""


@given(NAMES, st.dictionaries(NAMES, INFOS, max_size=8), ROUTES)
def test_workers_who_see_the_same_come_to_an_end_at_one_place_of_each_machine(start, others, route):
    workers = others if start in others else others | {start: WorkerInfo()}
    ends = {_follow(me, workers, route) for me in workers}
    if not route or route.owner not in workers:
        # Several machines may try, and workers that drain: compare-and-set lets one of them win.
        ends = {end for end in ends if workers[end[0]].state == RUNNING}
        assert len({gateway_of(place) for place, _ in ends}) == len(ends)
    else:
        assert {d.route.owner for _, d in ends if isinstance(d, Serve)} <= {route.owner}


def _follow(me: str, workers: dict[str, WorkerInfo], route: Route | None) -> tuple[str, Decision]:
    passed, from_gateway = 0, False
    for _ in range(5):
        heir = heir_for(PAIR, me, workers)
        decision = decide(route, me, workers, heir=heir, passed=passed, from_gateway=from_gateway)
        match decision:
            case HandTo(worker):
                me, passed = worker, passed + 1
            case SpliceTo(worker):
                # Any worker of that machine may accept it.
                me, passed, from_gateway = worker, 0, True
            case _:
                return me, decision
    raise AssertionError("a stream goes round and round")


# When an owner meets Redis again.


def test_what_redis_forgot_or_gave_to_the_dead_is_claimed_again():
    ours, dead = Route(OURS, 7), Route("gw1/w9.z", 9)
    assert reconcile(ours, None, OURS, [OURS]) == Take(None)
    assert reconcile(ours, dead, OURS, [OURS]) == Take(dead)


def test_the_older_epoch_drains():
    older, newer = Route(THEIRS, 7), Route(THEIRS, 9)
    assert reconcile(Route(OURS, 8), older, OURS, [OURS, THEIRS]) == Take(older)
    assert reconcile(Route(OURS, 8), newer, OURS, [OURS, THEIRS]) == Lost(newer)
    assert reconcile(Route(OURS, 0), older, OURS, [OURS, THEIRS]) == Lost(older)


def test_what_redis_knows_to_be_ours_stays_ours_with_its_epoch():
    assert reconcile(Route(OURS, 0), Route(OURS, 7), OURS, [OURS]) == Serve(Route(OURS, 7))


def test_the_larger_epoch_supersedes():
    assert is_newer(Route(OURS, 8), Route(THEIRS, 7))
    assert not is_newer(Route(OURS, 7), Route(THEIRS, 7))


# What names and heartbeats say.


def test_a_heartbeat_is_believed_as_far_as_it_is_well_formed():
    assert worker_info({"state": "draining", "local": "[fd00::1]:5271"}) == WorkerInfo(
        DRAINING, "[fd00::1]:5271"
    )
    for bad in ({}, {"state": 7, "local": 7}, {"local": "here"}, {"local": "0.0.0.0:1"}):
        assert worker_info(bad) == WorkerInfo(RUNNING, "")
    assert worker_info({"local": "10.0.0.1:0"}) == WorkerInfo()


def test_a_worker_id_names_gateway_slot_and_incarnation(config: Config):
    worker = worker_id(config, "w3", 1.5)
    assert worker == "gw1/w3.5dc"
    assert (gateway_of(worker), slot_of(worker)) == ("gw1", "w3")
