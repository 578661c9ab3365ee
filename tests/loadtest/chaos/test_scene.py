"""Which flows pass through sessions, by what the admin API says about these."""

from typing import Any

from loadtest.chaos.scene import flows_in

OURS, THEIRS = "load1.capulet.example", "load1.montague.example"


def session(direction: str, **more: Any) -> dict[str, Any]:
    return {"direction": direction, "domain_pairs": [[OURS, THEIRS]], **more}


def test_flows_by_direction() -> None:
    assert flows_in([session("outbound", waiting=0)]) == ({(OURS, THEIRS)}, set())
    assert flows_in([session("inbound")]) == ({(THEIRS, OURS)}, set())
    assert flows_in([session("local", waiting=0)]) == ({(THEIRS, OURS)}, set())


def test_a_stream_read_from_the_local_server() -> None:
    assert flows_in([session("local")]) == ({(OURS, THEIRS)}, {(OURS, THEIRS)})
