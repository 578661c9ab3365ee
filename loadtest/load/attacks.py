"""What hostile servers send. Each attack expects that the endpoint ends or refuses its session.

One session per attack, opened like any other remote domain's; the ledger knows nothing of them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from OpenSSL import SSL

from loadtest.load import messages
from loadtest.load.opening import open_session
from loadtest.load.settings import FleetSettings
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import NoOwner, SeeOtherUri
from workers.gateway.websocket_session import WebSocketSession

PATIENCE = 10.0


class NotRefused(Exception):
    """The endpoint went along with it."""


@dataclass(frozen=True, slots=True)
class Victim:
    """Who the attacker is by right, whom it attacks, and a certificate of somebody else."""

    settings: FleetSettings
    attacker: str
    other: str
    """A domain whose certificate and name are not the attacker's."""
    context: SSL.Context
    others_context: SSL.Context
    secret: bytes

    async def open(self, context: SSL.Context | None = None) -> WebSocketSession:
        return await open_session(
            self.settings,
            self.attacker,
            context or self.context,
            self.secret,
            NoOwner(),
            counts=False,
        )


Message = Callable[[Victim], str]


def _chat(victim: Victim, sender: str, text: str) -> str:
    to = f"echo@{victim.settings.target}"
    return messages.message(f"user@{sender}/x", to, "attack", text).data.decode()


MESSAGES: dict[str, Message] = {
    "malformed XML": lambda victim: "<message xmlns='jabber:server'><body></message>",
    "unclosed element": lambda victim: _chat(victim, victim.attacker, "x").removesuffix(
        "</message>"
    ),
    "DOCTYPE": lambda victim: (
        "<!DOCTYPE a [<!ENTITY b 'c'>]>" + _chat(victim, victim.attacker, "&b;")
    ),
    "forged from": lambda victim: _chat(victim, victim.other, "it is me"),
    "two elements": lambda victim: 2 * _chat(victim, victim.attacker, "x"),
    "oversize": lambda victim: _chat(victim, victim.attacker, messages.body(1_000_000)),
    "closing the root": lambda victim: "</r>" + _chat(victim, victim.attacker, "x"),
}


async def send_bad(victim: Victim, attack: str) -> None:
    """Open a session, send the message, and see the session end. Raises `NotRefused`."""
    session = await victim.open()
    try:
        session.websocket.send_messages([MESSAGES[attack](victim).encode()])
        async with asyncio.timeout(PATIENCE):
            await asyncio.shield(session.closed_future)
    except TimeoutError:
        raise NotRefused(f"the session lives on after {attack}") from None
    else:
        if session.reason.startswith("we "):
            raise NotRefused(f"after {attack} {session.reason}")
    finally:
        session.abort("attack over")


async def wrong_certificate(victim: Victim) -> None:
    """Claim a domain with the certificate of another. Raises `NotRefused`."""
    try:
        session = await victim.open(victim.others_context)
    except (HopFailed, SeeOtherUri):
        return
    session.abort("attack over")
    raise NotRefused("a certificate of another domain was accepted")
