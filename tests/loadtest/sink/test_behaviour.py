"""What the sink answers."""

from loadtest.load import messages
from loadtest.load.tally import Tally
from loadtest.sink.behaviour import Behaviour
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.stanza import Stanza, bounce

SINK, ROOM = "sink.example", "room1@sink.example"


def jid(number: int) -> str:
    return f"user@d{number}.example/load"


def tally(sink: Behaviour, number: int) -> Tally:
    request = messages.stanza(
        "iq", jid(number), SINK, "tally", "get", f"<tally xmlns='{messages.TALLY}'/>"
    )
    (answer,) = sink.answer(request)
    return Tally.from_stanza(answer)


def test_the_echo_sends_the_same_back() -> None:
    sink = Behaviour()
    (echo,) = sink.answer(messages.message(jid(1), f"echo@{SINK}", "r.0.0", "hello"))
    assert (echo.sender, echo.recipient, echo.id, echo.type) == (
        f"echo@{SINK}",
        jid(1),
        "r.0.0",
        "chat",
    )
    assert b"<body>hello</body>" in echo.data


def test_requests_get_one_result_and_results_none() -> None:
    sink = Behaviour()
    request = messages.ping(jid(1), f"echo@{SINK}", "r.0.1")
    (result,) = sink.answer(request)
    assert (result.type, result.id, result.recipient) == ("result", "r.0.1", jid(1))
    assert sink.answer(messages.result(request)) == []


def test_a_room_numbers_its_copies_for_each_member() -> None:
    sink = Behaviour()
    for number in (1, 2):
        (back,) = sink.answer(messages.presence(jid(number), ROOM, f"r.{number}.0"))
        assert (back.recipient, back.id) == (jid(number), f"r.{number}.0")
    copies: list[Stanza] = []
    for post in ("r.1.1", "r.1.2"):
        copies += sink.answer(messages.message(jid(1), ROOM, post, "all", "groupchat"))
    assert [(each.recipient, each.id) for each in copies] == [
        (jid(1), "s.0.r.1.1"),
        (jid(2), "s.0.r.1.1"),
        (jid(1), "s.1.r.1.2"),
        (jid(2), "s.1.r.1.2"),
    ]
    assert {each.sender for each in copies} == {f"{ROOM}/d1.example"}
    assert tally(sink, 2).copies == {ROOM: 2}


def test_who_has_left_gets_no_copies() -> None:
    sink = Behaviour()
    sink.answer(messages.presence(jid(1), ROOM, "r.0.0"))
    sink.answer(messages.presence(jid(1), ROOM, "r.0.1", "unavailable"))
    assert sink.answer(messages.message(jid(2), ROOM, "r.0.2", "all", "groupchat")) == []


def test_the_relay_sends_on() -> None:
    sink = Behaviour()
    (passed,) = sink.answer(messages.message(jid(1), f"relay@{SINK}/d9.example", "r.0.0", "x"))
    assert passed.recipient == "user@d9.example"
    assert passed.sender == f"relay@{SINK}/d1.example"
    assert passed.id == "r.0.0"


def test_what_comes_back_to_the_sink_is_told_once() -> None:
    sink = Behaviour()
    (echo,) = sink.answer(messages.message(jid(1), f"echo@{SINK}", "r.0.0", "hello"))
    error = bounce(echo, StanzaCondition.REMOTE_SERVER_TIMEOUT)
    assert error is not None
    assert sink.answer(error) == []
    (refused,) = tally(sink, 1).refused
    assert (refused.id, refused.condition) == ("r.0.0", "remote-server-timeout")
    assert tally(sink, 1).refused == []
