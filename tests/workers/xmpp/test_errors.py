"""Conditions are what RFC 6120 defines, and errors say them."""

import re

from workers.xmpp.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    StanzaCondition,
    StreamCondition,
    StreamProtocolError,
)


def test_conditions_are_element_names() -> None:
    tags = [condition.value for condition in StreamCondition]
    tags += [condition.tag for condition in StanzaCondition]
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", tag) for tag in tags)
    assert len(StreamCondition) == 25  # RFC 6120 §4.9.3


def test_stanza_conditions_have_the_types_of_the_rfc() -> None:
    """RFC 6120 §8.3.3, where it leaves no choice or we have made one."""
    types = {condition.tag: condition.error_type for condition in StanzaCondition}
    assert types["policy-violation"] == "modify"
    assert types["remote-server-not-found"] == "cancel"
    assert types["remote-server-timeout"] == types["resource-constraint"] == "wait"


def test_an_error_names_its_condition_and_who_is_to_blame() -> None:
    error = RemoteProtocolError(StreamCondition.CONFLICT, "twice", b"<x/>")
    assert (str(error), error.text, error.detail) == ("conflict: twice", "twice", b"<x/>")
    assert str(RemoteProtocolError(StreamCondition.RESET)) == "reset"
    assert isinstance(error, StreamProtocolError) and not isinstance(error, LocalProtocolError)
