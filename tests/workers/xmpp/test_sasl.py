"""Authorisation identities that are accepted, and how the others fail."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.xmpp.sasl import SaslFailure, check_initial_response, initial_response


def test_ours_is_the_transcripts() -> None:
    assert initial_response("capulet.example") == "Y2FwdWxldC5leGFtcGxl"


@pytest.mark.parametrize("text", ["=", "Y2FwdWxldC5leGFtcGxl", "Q2FwdWxldC5FeGFtcGxl"])
def test_nothing_or_the_streams_from_is_accepted(text) -> None:
    check_initial_response(text, "capulet.example")


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (None, "malformed-request"),
        ("", "malformed-request"),
        ("%%%", "incorrect-encoding"),
        (" =", "incorrect-encoding"),
        ("é", "incorrect-encoding"),
        (b64encode(b"\xff").decode(), "incorrect-encoding"),
        (b64encode(b"tybalt.example").decode(), "invalid-authzid"),
        (b64encode(b"juliet@capulet.example").decode(), "invalid-authzid"),
        (b64encode(b"capulet.example/x").decode(), "invalid-authzid"),
        (b64encode(b"").decode() or "====", "incorrect-encoding"),
        (b64encode(b"a..b").decode(), "invalid-authzid"),
    ],
)
def test_anything_else_fails_by_name(text, condition) -> None:
    with pytest.raises(SaslFailure) as caught:
        check_initial_response(text, "capulet.example")
    assert caught.value.condition == condition


@given(text=st.one_of(st.text(), st.binary().map(lambda data: b64encode(data).decode())))
def test_any_text_is_accepted_or_fails(text) -> None:
    try:
        check_initial_response(text, "capulet.example")
    except SaslFailure:
        pass
