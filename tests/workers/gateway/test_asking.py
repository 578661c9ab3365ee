"""What the next hop is asked, and when silence has lasted too long."""

import asyncio

import pytest

from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import (
    LOCAL,
    REMOTE,
    FarServer,
    message,
    on_quiet_loop,
    until,
)
from workers.gateway import asking
from workers.gateway.asking import BARRIER, Asking, barrier_tag
from workers.gateway.batch import Batch
from workers.gateway.outbox import Outbox


async def connected(**options: bool) -> tuple[FarServer, Peer]:
    """A far server, and who has opened a session to it."""
    far, peer = await FarServer().serve_tcp(), Peer()
    peer.session = await far.connect(peer, **options)
    return far, peer


def with_one_sent() -> Outbox:
    outbox = Outbox()
    outbox.push(Batch([message("1")], 1))
    outbox.take(lambda batch: batch.stanzas)
    return outbox


def test_a_tag_names_a_worker() -> None:
    assert barrier_tag("gw/w1.1") == barrier_tag("gw/w1.1") != barrier_tag("gw/w2.1")
    assert len(barrier_tag("gw/w1.1")) == 12


@on_quiet_loop
async def test_many_bytes_are_sent_with_questions_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ASK_BYTES", 300)
    far, peer = await connected()
    outbox = Outbox()
    ask = Asking(outbox, DomainPair(LOCAL, REMOTE), "tag")
    ask.begin()
    stanzas = [message(str(number)) for number in range(10)]
    size = sum(len(stanza.data) for stanza in stanzas)
    ask.send(peer.session, stanzas, size)
    written = peer.session.stream.data_to_send()
    questions = [data for data in written if data.startswith(b"<r ")]
    assert len(written) - len(questions) == 10
    assert len(questions) >= size // 300 - 1
    peer.session.abort("done")
    await far.close()


@on_quiet_loop
async def test_few_are_asked_about_together_after_a_pause_and_many_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "ASK_PAUSE", 0.05)
    monkeypatch.setattr(asking, "ASK_LATE", 0.1)
    far, peer = await connected()
    sent = peer.session.stream.sent
    ask = Asking(Outbox(), DomainPair(LOCAL, REMOTE), "tag")
    ask.begin()

    def asked_after(count: int) -> int:
        peer.session.stream.send_stanzas([message(str(number)) for number in range(count)])
        ask.ask(peer.session)
        peer.session.write()
        return sent.requested_at

    assert asked_after(1) == 1
    ask.answered(1)
    assert [asked_after(1), asked_after(2)] == [1, 1]
    await until(lambda: sent.requested_at == 4)
    ask.answered(3)
    assert asked_after(asking.FEW) == 4 + asking.FEW
    ask.answered(asking.FEW)
    assert asked_after(1) == 4 + asking.FEW
    peer.session.abort("done")
    await until(lambda: ask._timer is None)  # nobody is asked any more
    assert sent.requested_at == 4 + asking.FEW
    await far.close()


@on_quiet_loop
async def test_what_is_sent_after_the_pause_takes_the_question_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "ASK_PAUSE", 0.02)
    monkeypatch.setattr(asking, "ASK_LATE", 60)
    far, peer = await connected()
    stream = peer.session.stream
    ask = Asking(Outbox(), DomainPair(LOCAL, REMOTE), "tag")
    ask.begin()
    asked = []
    for pause in (0, 0, 0.03):
        await asyncio.sleep(pause)
        stream.send_stanzas([message("1")])
        ask.ask(peer.session)
        asked.append(stream.sent.requested_at)
        ask.answered(0)
    assert asked == [1, 1, 3]
    assert ask._timer is None
    peer.session.abort("done")
    await far.close()


@on_quiet_loop
async def test_without_acknowledgements_a_ping_is_the_barrier() -> None:
    far, peer = await connected(use_management=False)
    outbox = with_one_sent()
    ask = Asking(outbox, DomainPair("to.example", "from.example"), "tag")
    ask.ask(peer.session)
    ask.ask(peer.session)
    (ping,) = peer.session.stream.data_to_send()
    assert b"from='from.example'" in ping and b"to='to.example'" in ping
    assert f"id='{BARRIER}tag.".encode() in ping
    assert outbox.barrier_pending and not ask.is_overdue(peer.session)
    peer.session.abort("done")
    await far.close()


@on_quiet_loop
async def test_silence_ends_the_session_unless_we_do_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "PROGRESS_TIMEOUT", -1.0)
    far, peer = await connected()
    ask = Asking(Outbox(), DomainPair(LOCAL, REMOTE), "tag")
    ask.begin()
    assert "nothing was acknowledged" in ask.insist(peer.session)
    peer.session.pause_reading()
    assert ask.insist(peer.session) == ""
    peer.session.resume_reading()
    assert ask.insist(peer.session)
    peer.session.channel.rest(0.05)  # its owner is over its rate
    assert ask.insist(peer.session) == ""
    await until(lambda: peer.session.is_reading)
    assert ask.insist(peer.session)
    peer.session.abort("done")
    await until(lambda: bool(peer.ended))
    await far.close()


@on_quiet_loop
async def test_a_barrier_is_not_overdue_before_its_answer_could_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "BARRIER_TIMEOUT", 0.1)
    far, peer = await connected(use_management=False)
    outbox = with_one_sent()
    ask = Asking(outbox, DomainPair(LOCAL, REMOTE), "tag")
    ask.ask(peer.session)
    peer.session.channel.rest(0.3)
    await until(lambda: outbox.is_overdue(asyncio.get_running_loop().time(), 0.1))
    await until(lambda: not ask.is_overdue(peer.session) and peer.session.is_reading)
    await until(lambda: ask.is_overdue(peer.session))
    peer.session.abort("done")
    await until(lambda: bool(peer.ended))
    await far.close()


@on_quiet_loop
async def test_who_opened_the_session_is_to_answer_soon_for_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "FIRST_ANSWER_TIMEOUT", -1.0)
    far = await FarServer().serve_websocket()
    far.stream_options = {"use_bidi": True}
    peer = Peer()
    peer.session = await far.connect(peer, websocket=True, use_bidi=True)
    await until(lambda: peer.session.stream.sent.enabled)
    (accepted,) = far.sessions
    ask = Asking(Outbox(), DomainPair(LOCAL, REMOTE), "tag")
    ask.begin()
    assert ask.insist(peer.session) == ""
    assert "for -1 s" in ask.insist(accepted)
    ask.answered(0)  # it reads, and what it was sent takes time
    assert ask.insist(accepted) == ""
    ask.begin()
    assert ask.insist(accepted)
    peer.session.abort("done")
    await until(lambda: bool(peer.ended))
    await far.close()
