"""The culprit among stanzas whose sessions are lost is found without repeating the others."""

from tests.workers.gateway.session_bench import message
from workers.gateway.batch import Batch
from workers.gateway.isolation import Isolation
from workers.gateway.outbox import Outbox


def _lost(outbox: Outbox, *ids: str) -> Isolation:
    outbox.push(Batch([message(id) for id in ids], len(ids)))
    return Isolation(outbox)


def _send(outbox: Outbox, isolation: Isolation) -> list[str | None]:
    take = outbox.take_one if isolation.is_careful else outbox.take
    return [stanza.id for stanza in take(lambda batch: batch.stanzas)]


def test_after_two_losses_stanzas_go_alone_and_the_culprit_is_given_up() -> None:
    outbox = Outbox()
    isolation = _lost(outbox, "1", "2", "3")
    for _ in range(2):
        assert _send(outbox, isolation) == ["1", "2", "3"]
        outbox.take_back()
        assert isolation.session_lost(is_fruitful=False) == []
    assert _send(outbox, isolation) == ["1"]
    outbox.acknowledge(1, 0)
    assert _send(outbox, isolation) == ["2"]
    outbox.take_back()
    assert isolation.session_lost(is_fruitful=True) == []
    for given_up in ([], ["2"]):
        assert _send(outbox, isolation) == ["2"]
        outbox.take_back()
        culprit = isolation.session_lost(is_fruitful=False)
        assert [failed.stanza.id for failed in culprit] == given_up
    assert _send(outbox, isolation) == ["3"]
    outbox.acknowledge(1, 0)
    assert not isolation.is_careful
    assert not outbox


def test_sessions_lost_before_anything_was_sent_prove_nothing() -> None:
    outbox = Outbox()
    isolation = _lost(outbox, "1", "2")
    for _ in range(5):
        outbox.take_back()
        assert isolation.session_lost(is_fruitful=False) == []
    assert not isolation.is_careful
