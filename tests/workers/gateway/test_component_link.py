"""Connecting as a component: refusals are explained, and tried again until they are mended."""

import pytest

from coordinator.address import Address
from tests.workers.gateway.component_bench import ComponentScene
from tests.workers.gateway.session_bench import REMOTE, message, on_quiet_loop, until
from workers.gateway.component_link import explain
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import NoOwner
from workers.xmpp.errors import StreamCondition


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (StreamCondition.HOST_UNKNOWN, "add the lines of `fedgate attach prosody`"),
        (StreamCondition.NOT_AUTHORIZED, "local.secret must be its component_secret"),
        (StreamCondition.CONFLICT, "one connection per name is all that servers keep in order"),
        (StreamCondition.INVALID_NAMESPACE, "correct local.server"),
        (StreamCondition.SYSTEM_SHUTDOWN, "waits for it"),
        (StreamCondition.RESET, "see the log of that server"),
        (None, "see the log of that server"),
    ],
)
def test_every_refusal_names_the_next_step(condition: StreamCondition | None, words: str) -> None:
    text = explain("b.example", Address("127.0.0.1", 5347), condition, "a reason")
    assert words in text
    assert "b.example" in text or "127.0.0.1:5347" in text


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("not-authorized", "local.secret must be"),
        ("conflict", "somebody else is connected"),
        ("host-unknown", "has no component"),
    ],
)
@on_quiet_loop
async def test_a_refusal_is_told_once_and_tried_again(
    component: ComponentScene, refusal: str, words: str
) -> None:
    component.server.refusal = refusal
    await component.start(connected=False)
    await until(lambda: component.server.attempts >= 3)
    assert [error["domain"] for error in component.errors] == [REMOTE]
    assert words in component.errors[0]["reason"]
    with pytest.raises(HopFailed, match=words):
        await component.link.lane(NoOwner(), timeout=0.01)

    component.server.refusal = ""
    await until(lambda: component.attachment.sources)
    assert component.link.problem == ""


@on_quiet_loop
async def test_an_unknown_component_is_refused_before_the_secret_is_shown(
    component: ComponentScene,
) -> None:
    component.server.names.clear()
    await component.start(connected=False)
    await until(lambda: component.errors)
    assert "has no component" in component.errors[0]["reason"]


@on_quiet_loop
async def test_a_server_that_is_down_at_the_start_is_waited_for(
    component: ComponentScene,
) -> None:
    await component.server.start()
    await component.server.stop()
    await component.start(connected=False)
    await until(lambda: component.errors)
    assert "start it" in component.errors[0]["reason"]
    await component.server.start()
    await until(lambda: component.attachment.sources)


@on_quiet_loop
async def test_what_was_under_way_at_a_crash_is_sent_again_and_marked(
    component: ComponentScene,
) -> None:
    await component.start()
    component.server.answers = False
    component.from_remote("1")
    await until(lambda: component.server.ids() == ["1"])
    await component.server.stop()
    await until(lambda: not component.attachment.sources)
    component.server.answers = True
    await component.server.start()
    await until(lambda: component.server.ids() == ["1", "1"])
    assert [b"urn:xmpp:delay" in stanza.data for stanza in component.server.got] == [False, True]
    await until(lambda: component.ledger("inbound")["acknowledged"] == 1)
    assert component.ledger("inbound")["replayed"] == 1


@on_quiet_loop
async def test_senders_are_told_when_the_server_stays_away(component: ComponentScene) -> None:
    await component.start()
    await component.server.stop()
    await until(lambda: not component.attachment.sources)
    component.from_remote("1")
    await until(lambda: component.far.got)
    (error,) = component.far.got
    assert (error.id, error.type) == ("1", "error")
    assert b"remote-server-timeout" in error.data
    await until(lambda: component.ledger("inbound")["bounced"] == 1)


@on_quiet_loop
async def test_nothing_connects_after_stop(component: ComponentScene) -> None:
    await component.start()
    component.attachment.stop()
    component.server.send(message("1"))
    await until(lambda: component.far.got)
    for writer in component.server.writers:
        writer.close()
    await until(lambda: not component.attachment.sources)
    with pytest.raises(HopFailed):
        await component.link.lane(NoOwner(), timeout=5)
    assert component.server.attempts == 1
