"""Events are plain values, compared by what they say."""

from typing import get_args

from msgspec import Struct

from workers.xmpp import events


def test_every_event_is_in_the_union_and_a_struct() -> None:
    declared = {
        value
        for value in vars(events).values()
        if isinstance(value, type) and value.__module__ == events.__name__
    }
    assert declared == set(get_args(events.Event))
    assert all(issubclass(event, Struct) for event in declared)


def test_a_stream_ends_uncleanly_and_unanswered_unless_said_otherwise() -> None:
    assert events.StreamClosed(clean=True) != events.StreamClosed(clean=True, answered=True)
    assert not events.StanzasReceived([]).resendable
