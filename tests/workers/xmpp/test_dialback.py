"""The specifications' own keys, and questions that are answered once."""

from hypothesis import given
from hypothesis import strategies as st

from workers.xmpp.dialback import Outstanding, dialback_key, is_our_key

SECRET = b"s3cr3tf0rd14lb4ck"
# A few that are prefixes and suffixes of each other, and ids as strangers choose them.
_DOMAINS = st.sampled_from(["a.example", "a.example.b", "b.example", "example"])
_IDS = st.sampled_from(["1", "b.example 1", "a.example 1", "", " 1", "example 1"])


def test_the_key_of_xep_0185() -> None:
    assert (
        dialback_key(
            SECRET, receiving="xmpp.example.com", originating="example.org", stream_id="D60000229F"
        )
        == "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643"
    )


def test_the_key_of_xep_0220() -> None:
    assert (
        dialback_key(
            SECRET,
            receiving="montague.example",
            originating="capulet.example",
            stream_id="D60000229F",
        )
        == "b4835385f37fe2895af6c196b59097b16862406db80559900d96bf6fa7d23df3"
    )


@given(key=st.text())
def test_only_our_own_key_is_ours_and_any_text_may_be_asked_about(key) -> None:
    names = {"receiving": "b.example", "originating": "a.example", "stream_id": "1"}
    ours = dialback_key(SECRET, **names)
    assert is_our_key(ours, SECRET, **names)
    assert is_our_key(key, SECRET, **names) is (key == ours)
    assert not is_our_key(ours, SECRET, **{**names, "stream_id": "2"})
    assert not is_our_key(ours, b"other", **names)


@given(
    receiving=_DOMAINS, originating=_DOMAINS, id=_IDS, others=st.tuples(_DOMAINS, _DOMAINS, _IDS)
)
def test_no_text_moves_from_one_field_to_the_next(receiving, originating, id, others) -> None:
    """CVE-2016-0756: domains have no spaces, so the three can be told apart in the joined text."""
    ours = dialback_key(SECRET, receiving=receiving, originating=originating, stream_id=id)
    names = dict(zip(("receiving", "originating", "stream_id"), others, strict=True))
    assert is_our_key(ours, SECRET, **names) is (others == (receiving, originating, id))


def test_a_question_is_open_until_it_is_settled_and_only_then() -> None:
    asked = Outstanding(limit=2)
    assert not asked.settle("a", "b")
    assert asked.ask("a", "b") and not asked.ask("a", "b")
    assert asked.ask("a", "c") and not asked.ask("a", "d")
    assert len(asked) == 2
    assert asked.settle("a", "b") and not asked.settle("a", "b")
    assert asked.ask("a", "d")
