"""Why a next server cannot be reached, and what the senders are told."""

from workers.xmpp.errors import StanzaCondition


class HopFailed(Exception):
    """The next server cannot be reached; `resolved` tells the cases of RFC 6120 §10.4.3 apart.

    `untried`: nobody has tried yet, so it says nothing of that server.
    """

    def __init__(self, reason: str, *, resolved: bool, untried: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.resolved = resolved
        self.untried = untried

    @property
    def condition(self) -> StanzaCondition:
        if self.resolved:
            return StanzaCondition.REMOTE_SERVER_TIMEOUT
        return StanzaCondition.REMOTE_SERVER_NOT_FOUND
