"""The order of the states carries meaning."""

from workers.xmpp.state import State, StreamConfig


def test_negotiation_comes_before_and_silence_after() -> None:
    negotiating = [state for state in State if state < State.ESTABLISHED]
    silent = [state for state in State if state >= State.CLOSING]
    assert State.WAIT_TLS in negotiating and State.ENABLING in negotiating
    assert silent == [State.CLOSING, State.CLOSED]
    assert State.ESTABLISHED < State.SETTLING < State.CLOSING


def test_configurations_do_not_share_anything_that_changes() -> None:
    assert StreamConfig() == StreamConfig()
    assert StreamConfig(offer_tls=True) != StreamConfig()
