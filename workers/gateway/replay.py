"""What a dead worker held and its journal kept: dealt to us, it goes on from here.

Nobody knows how far it had come, so messages and presence are marked late (XEP-0203), and requests
are returned to their senders: they may have been executed.
"""

import asyncio
import logging
from dataclasses import replace

import msgspec

from coordinator.config import Config
from coordinator.journal import Kind
from coordinator.routes import DomainPair
from workers.gateway.replies import Failed
from workers.gateway.router import Router
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.parser import MessageParser
from workers.xmpp.stanza import Stanza

log = logging.getLogger(__name__)

ANY_SIZE = 1 << 30
_REASON = "the gateway lost a worker while this request was under way"


class Replay:
    """Takes the records of dead workers' journals, in their order."""

    def __init__(self, router: Router, config: Config) -> None:
        self._router = router
        self._domains = config.gateway.domains
        # What a worker has accepted is not refused by the next one: its limits may have been
        # others, and our serializer's text is longer than what came.
        self._limits = replace(config.limits, stanza_bytes=ANY_SIZE, elements=ANY_SIZE)

    def on_dealt(self, kind: Kind, pair: DomainPair, data: bytes) -> None:
        """One record. It was read from Redis: what is not ours is logged and left out."""
        if pair.local not in self._domains:
            log.error("a record of the journal is for %s, which is not served here", pair.local)
            return
        try:
            if kind == "barrier":
                self._router.barrier_answered(pair, data.decode("ascii", "replace"))
            elif kind == "note":
                self._on_note(pair, data)
            else:
                self._on_stanzas(kind, pair, data)
        except msgspec.DecodeError as exc:
            log.error("a record of the journal for %s and %s is damaged: %s", *pair, exc)

    def _on_note(self, pair: DomainPair, data: bytes) -> None:
        keys = msgspec.msgpack.decode(data, type=list[tuple[str, str | None]])
        self._router.requests.suspect(pair, keys, asyncio.get_running_loop().time())

    def _on_stanzas(self, kind: Kind, pair: DomainPair, data: bytes) -> None:
        stanzas = self._parsed(kind, pair, msgspec.msgpack.decode(data, type=list[bytes]))
        if not stanzas:
            return
        log.info("%s and %s: %d stanzas of a dead worker go on here", *pair, len(stanzas))
        router = self._router
        origin = router.new_origin(kind, lambda count: None)
        origin.lost = True
        way, way_back = router.to_remote, router.to_local
        if kind == "in":
            way, way_back = way_back, way
        requests = [stanza for stanza in stanzas if stanza.is_request]
        if requests:
            batch = origin.accept(requests)
            failed = [Failed(stanza, batch) for stanza in requests]
            router.bounce(
                failed, StanzaCondition.REMOTE_SERVER_TIMEOUT, _REASON, lambda: way_back(pair)
            )
        others = [stanza for stanza in stanzas if not stanza.is_request]
        if others:
            origin.note_replayed(len(others))
            batch = origin.accept(others)
            batch.uncertain = True
            way(pair).send_old(batch)

    def _parsed(self, kind: Kind, pair: DomainPair, messages: list[bytes]) -> list[Stanza]:
        """Through the parser once more: only our own serializer's bytes leave this worker."""
        addresses = pair if kind == "out" else (pair.remote, pair.local)
        stanzas = []
        for message in messages:
            parser = MessageParser(self._limits)  # one of its own: no damage spreads
            parser.authenticated = True
            match parser.parse([message]):
                case [Stanza() as stanza] if (
                    stanza.sender_domain,
                    stanza.target_domain,
                ) == addresses:
                    stanzas.append(stanza)
                case items:
                    log.error("a stanza in the journal for %s and %s is not ours: %r", *pair, items)
        return stanzas
