"""Which flows pass through sessions, by what the admin API says about these."""

from typing import Any

import pytest

from loadtest.chaos.scene import flows_in

OURS, THEIRS = "load1.capulet.example", "load1.montague.example"


def session(direction: str, **more: Any) -> dict[str, Any]:
    return {"direction": direction, "domain_pairs": [[OURS, THEIRS]], **more}


@pytest.mark.parametrize("direction", ["outbound", "inbound"])
def test_a_session_between_gateways_may_carry_both_flows(direction: str) -> None:
    assert flows_in([session(direction)]) == ({(OURS, THEIRS), (THEIRS, OURS)}, set())


def test_a_stream_to_the_local_server() -> None:
    assert flows_in([session("local", waiting=0)]) == ({(THEIRS, OURS)}, set())


def test_a_stream_read_from_the_local_server() -> None:
    assert flows_in([session("local")]) == ({(OURS, THEIRS)}, {(OURS, THEIRS)})
