"""What Prosody sends before `<enable/>`: `newer… older… <enable/>`, put right."""

import pytest

from workers.gateway.batch import Batch
from workers.gateway.beginning import Beginning
from workers.xmpp.stanza import Stanza

LOCAL = "capulet.example"


def stanza(id: str, *, by: str = "", type: str | None = None) -> Stanza:
    late = f"<delay xmlns='urn:xmpp:delay' from='{by}' stamp='2026-01-01T00:00:00Z'/>" if by else ""
    data = f"<message id='{id}'>{late}</message>".encode()
    return Stanza("message", data, f"a@{LOCAL}", "b@b.example", id, type, LOCAL, "b.example")


def hold(beginning: Beginning, *stanzas: Stanza, write: int = 1) -> None:
    for run, sign in beginning.cut(list(stanzas)):
        beginning.hold(Batch(run, len(run)), write, sign)


def order(beginning: Beginning, *, is_enabled: bool = True) -> list[str | None]:
    batches = beginning.in_order(is_enabled=is_enabled)
    return [each.id for batch in batches for each in batch.stanzas]


def a_beginning(*repeats: str) -> Beginning:
    return Beginning(LOCAL, lambda stanza: stanza.id in repeats)


def test_without_a_mark_the_order_of_arrival_stays() -> None:
    beginning = a_beginning()
    hold(beginning, stanza("1"), stanza("2"))
    hold(beginning, stanza("3", by="elsewhere.example"))
    hold(beginning, stanza("4"), stanza("5"), stanza("6"), write=2)
    assert order(beginning) == ["1", "2", "3", "4", "5", "6"]
    assert order(beginning) == []


def test_without_enable_the_order_of_arrival_stays() -> None:
    beginning = a_beginning()
    hold(beginning, stanza("1"))
    hold(beginning, stanza("2"), write=2)
    hold(beginning, stanza("3", by=LOCAL), write=3)
    assert order(beginning, is_enabled=False) == ["1", "2", "3"]


def test_the_queue_begins_with_what_is_sent_again() -> None:
    beginning = a_beginning()
    hold(beginning, stanza("5"), stanza("6"), stanza("7"), stanza("8"))
    hold(beginning, stanza("9"), stanza("1", by=LOCAL), stanza("2", by=LOCAL), write=3)
    hold(beginning, stanza("3", by=LOCAL), stanza("4"), write=4)
    hold(beginning, stanza("10"), write=5)
    assert order(beginning) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]


@pytest.mark.parametrize("type", ["result", "get"])
def test_an_iq_just_before_the_first_mark_is_sent_again_too(type: str) -> None:
    """A request is not known if the worker that died had not read it."""
    iq = Stanza("iq", b"<iq/>", f"a@{LOCAL}", "b@b.example", "1", type, LOCAL, "b.example")
    beginning = a_beginning()
    hold(beginning, stanza("4"), iq, stanza("2", by=LOCAL), stanza("3"))
    assert order(beginning) == ["1", "2", "3", "4"]
    beginning = a_beginning()
    hold(beginning, stanza("4"))
    hold(beginning, iq, stanza("2", by=LOCAL), stanza("3"), write=2)
    assert order(beginning) == ["1", "2", "3", "4"]


def test_a_request_nobody_has_read_before_is_newer_than_one_that_is_known() -> None:
    beginning = a_beginning("3")
    iq = Stanza("iq", b"<iq/>", f"a@{LOCAL}", "b@b.example", "5", "set", LOCAL, "b.example")
    known = Stanza("iq", b"<iq/>", f"a@{LOCAL}", "b@b.example", "3", "get", LOCAL, "b.example")
    hold(beginning, stanza("4"), iq, stanza("1", by=LOCAL), stanza("2", by=LOCAL))
    hold(beginning, known)
    assert order(beginning) == ["1", "2", "3", "4", "5"]


def test_a_request_that_comes_again_is_a_sign_like_a_mark() -> None:
    beginning = a_beginning("1")
    hold(beginning, stanza("3"))
    hold(beginning, stanza("1"), stanza("2"))
    assert order(beginning) == ["1", "2", "3"]
