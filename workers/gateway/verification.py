"""Dialback keys (XEP-0220 §2.1.2): asking the server that is said to have made a key.

Strangers can make us ask, about any domain. Who asks for more than a share waits behind itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from coordinator.routes import DomainPair
from workers.gateway.failure import HopFailed
from workers.gateway.gate import Gate
from workers.gateway.local_connector import ToLocalServer
from workers.gateway.negotiation import NoOwner
from workers.gateway.remote_connector import RemoteConnector
from workers.gateway.session import Session, SessionOwner
from workers.xmpp.errors import LocalProtocolError
from workers.xmpp.events import Event, StreamClosed, VerifyAnswered

log = logging.getLogger(__name__)

# Seconds for a question in all, waiting in line included.
VERIFY_TIMEOUT = 10.0
# Questions at once: per worker and direction, per domain, and for one asker's address.
MAX_VERIFICATIONS = 64
MAX_PER_DOMAIN = 2
MAX_PER_ASKER = 8


class Verdict(NamedTuple):
    """`outcome` is "valid", "invalid" or "error", then with the stanza condition to answer."""

    outcome: str
    error: str = ""


BUSY = Verdict("error", "resource-constraint")


class Verifier:
    """`asker`: the address of the stranger for whom we ask, "" for the local server."""

    def __init__(self, remote: RemoteConnector, local: ToLocalServer) -> None:
        self._remote = remote
        self._local = local
        self._for_strangers = Gate(MAX_VERIFICATIONS)
        self._for_local = Gate(MAX_VERIFICATIONS)
        self._at_local = Gate(MAX_VERIFICATIONS)

    async def ask_remote(self, pair: DomainPair, *, id: str, key: str, asker: str) -> Verdict:
        """Ask the authoritative server of the remote domain, on a connection of its own."""

        async def connect(owner: SessionOwner) -> Session:
            return await self._remote.connect(
                pair.local, pair.remote, owner, verify_only=True, asker=asker
            )

        gate = self._for_strangers if asker else self._for_local
        return await self._ask(gate, asker, connect, pair.local, pair.remote, id, key)

    async def ask_local(self, pair: DomainPair, *, id: str, key: str, asker: str) -> Verdict:
        """Ask the local server whether it made a key for the remote domain."""

        async def connect(owner: SessionOwner) -> Session:
            return await self._local.connect(pair.local, pair.remote, owner, verify_only=True)

        return await self._ask(self._at_local, asker, connect, pair.remote, pair.local, id, key)

    async def _ask(
        self,
        gate: Gate,
        asker: str,
        connect: Callable[[SessionOwner], Awaitable[Session]],
        sender: str,
        target: str,
        id: str,
        key: str,
    ) -> Verdict:
        domain = sender if gate is self._at_local else target
        limits = [(f"from {asker}", MAX_PER_ASKER)] if asker else []
        is_in = False
        try:
            async with (
                asyncio.timeout(VERIFY_TIMEOUT),
                gate.enter(*limits, (f"about {domain}", MAX_PER_DOMAIN)),
            ):
                is_in = True
                return await _put(connect, sender, target, id, key)
        except TimeoutError:
            log.warning("the key of %s at %s is not verified in time", sender, target)
            return Verdict("error", "remote-server-timeout") if is_in else BUSY
        except (HopFailed, LocalProtocolError) as exc:
            log.warning("cannot verify the key of %s at %s: %s", sender, target, exc)
            return Verdict("error", "remote-server-not-found")


async def _put(
    connect: Callable[[SessionOwner], Awaitable[Session]],
    sender: str,
    target: str,
    id: str,
    key: str,
) -> Verdict:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_event(_session: Session, event: Event) -> None:
        if isinstance(event, VerifyAnswered) and not answer.done():
            answer.set_result(event.outcome)
        elif isinstance(event, StreamClosed) and not answer.done():
            answer.set_result("error")

    session = await connect(NoOwner(on_event))
    try:
        session.stream.send_verify(sender=sender, target=target, id=id, key=key)
        session.pump()
        outcome = await answer
    finally:
        session.close()
    return Verdict(outcome, "remote-connection-failed" if outcome == "error" else "")
