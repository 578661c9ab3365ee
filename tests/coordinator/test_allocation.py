"""Workers begin with the allocator's setting, beside whatever the operator has set."""

from coordinator.allocation import worker_environment

OURS = "glibc.malloc.tcache_count=128"


def test_a_worker_keeps_more_freed_memory_at_hand() -> None:
    assert worker_environment({"PATH": "/bin"}) == {"PATH": "/bin", "GLIBC_TUNABLES": OURS}


def test_other_tunables_of_the_operator_stay() -> None:
    theirs = "glibc.malloc.hugetlb=1"
    made = worker_environment({"GLIBC_TUNABLES": theirs})
    assert made == {"GLIBC_TUNABLES": f"{theirs}:{OURS}"}


def test_the_operator_may_say_otherwise() -> None:
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
    assert worker_environment(theirs) == theirs
