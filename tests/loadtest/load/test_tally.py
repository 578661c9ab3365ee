"""What the sink says it has sent."""

from loadtest.load import messages
from loadtest.load.tally import Refused, Tally


def test_a_tally_is_read_as_it_was_written() -> None:
    tally = Tally({"room1@s.example": 7}, [Refused("echo@s.example", "r.1.2", "gone")])
    request = messages.ping("user@a.example", "s.example", "tally")
    assert Tally.from_stanza(messages.result(request, tally.to_xml())) == tally


def test_a_result_of_another_server_tells_nothing() -> None:
    request = messages.ping("user@a.example", "s.example", "tally")
    assert Tally.from_stanza(messages.result(request)) == Tally()
