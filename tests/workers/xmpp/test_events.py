"""Events are plain values, compared by what they say."""

from dataclasses import is_dataclass
from typing import get_args

from workers.xmpp import events


def test_every_event_is_in_the_union_and_has_slots() -> None:
    declared = {
        value
        for value in vars(events).values()
        if isinstance(value, type) and value.__module__ == events.__name__
    }
    assert declared == set(get_args(events.Event))
    assert all(is_dataclass(event) and "__slots__" in vars(event) for event in declared)


def test_a_stream_ends_uncleanly_and_unanswered_unless_said_otherwise() -> None:
    assert events.StreamClosed(clean=True) != events.StreamClosed(clean=True, answered=True)
    assert not events.StanzasReceived([]).resendable
