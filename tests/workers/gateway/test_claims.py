"""The journal's records of a batch, by themselves; how they come and go: `test_flow.py`."""

import msgspec

from coordinator.accounts import IN_FLIGHT_OURS, IN_FLIGHT_RESENDABLE
from workers.gateway.batch import Batch
from workers.gateway.claims import Claim, Note, pair_of
from workers.gateway.flow import Origin
from workers.xmpp.stanza import Stanza

PAIR = "a.example", "b.example"
STANZAS = [Stanza("message", b"<message/>", "x@a.example", "y@b.example", None, None, *PAIR)] * 2


def an_origin() -> Origin:
    return Origin(memoryview(bytearray(32 * 8)).cast("Q"), lambda count: None)


def a_claim(origin: Origin, batch: Batch, *, has_gaps: bool) -> Claim:
    return Claim(
        "out", 20, origin=origin, stanzas=STANZAS, batches=[batch], left=2, has_gaps=has_gaps
    )


def test_a_pair_is_named_from_our_side() -> None:
    assert pair_of("out", STANZAS[0]) == PAIR
    assert pair_of("in", STANZAS[0]) == PAIR[::-1]


def test_what_a_claim_writes_and_whom_it_tells() -> None:
    origin = an_origin()
    batch = origin.accept(list(STANZAS))
    claim = a_claim(origin, batch, has_gaps=False)
    local, remote, data = claim.encode()
    assert (local, remote) == PAIR
    assert msgspec.msgpack.decode(data) == [b"<message/>"] * 2
    assert claim.on_kept(False) is None and not batch.kept
    assert claim.on_kept(True) == origin.report and batch.kept
    assert origin.counters[IN_FLIGHT_OURS] == 0 and origin.counters[IN_FLIGHT_RESENDABLE] == 2


def test_a_claim_with_gaps_is_never_kept() -> None:
    origin = an_origin()
    batch = origin.accept(list(STANZAS))
    assert a_claim(origin, batch, has_gaps=True).on_kept(True) is None
    assert not batch.kept and origin.counters[IN_FLIGHT_OURS] == 2


def test_a_note_writes_names_alone_and_lets_its_batches_go() -> None:
    batch = Batch(list(STANZAS), 2, held=True)
    names: list[tuple[str, str | None]] = [("x@a.example", "1")]
    note = Note("note", 12, pair=PAIR, names=names, batches=[batch], left=2)
    assert note.encode()[:2] == PAIR
    assert msgspec.msgpack.decode(note.encode()[2]) == [["x@a.example", "1"]]
    note.on_kept(False)  # Redis is away: it goes on without
    assert not batch.held
