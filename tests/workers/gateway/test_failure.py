from workers.gateway.failure import HopFailed
from workers.xmpp.errors import StanzaCondition


def test_a_domain_that_does_not_resolve_is_not_found() -> None:
    failure = HopFailed("no such name", resolved=False)
    assert failure.condition is StanzaCondition.REMOTE_SERVER_NOT_FOUND
    assert failure.reason == str(failure) == "no such name"


def test_a_domain_that_resolves_but_does_not_answer_timed_out() -> None:
    assert HopFailed("no answer", resolved=True).condition is StanzaCondition.REMOTE_SERVER_TIMEOUT
