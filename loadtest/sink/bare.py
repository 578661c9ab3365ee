"""The sink without a gateway: sessions of remote domains end in it and are answered at once."""

from loadtest.load.listener import InboundSession
from loadtest.sink.behaviour import Behaviour
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import State


class BareEcho:
    """Answers go back on the session of their domain (XEP-0288); without one they are dropped."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.dropped = 0
        self._behaviour = behaviour
        self._sessions: dict[str, InboundSession] = {}

    def take(self, inbound: InboundSession, stanzas: list[Stanza]) -> None:
        for stanza in stanzas:
            self._sessions[stanza.sender_domain] = inbound
        touched = set()
        for stanza in stanzas:
            for answer in self._behaviour.answer(stanza):
                way = self._sessions.get(answer.target_domain)
                if way is None or not self._can_send(way):
                    self.dropped += 1
                    continue
                way.session.stream.send_stanzas([answer])
                touched.add(way)
        for way in touched:
            way.session.write()

    def _can_send(self, way: InboundSession) -> bool:
        stream = way.session.stream
        return stream.state is State.ESTABLISHED and stream.bidirectional
