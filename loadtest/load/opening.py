"""Opening wss sessions to the endpoint under test in the name of a remote domain (XEP-0468)."""

import asyncio

from OpenSSL import SSL

from loadtest.load.settings import FleetSettings
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import Negotiation
from workers.gateway.session import SessionOwner
from workers.gateway.websocket_connect import WebSocketFailed, connect
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.management import Suspended
from workers.xmpp.parser import MessageParser
from workers.xmpp.stream import StreamConfig

TIMEOUT = 10.0
_PING_INTERVAL = 50.0


async def open_session(
    settings: FleetSettings,
    name: str,
    context: SSL.Context,
    secret: bytes,
    owner: SessionOwner,
    resume: Suspended | None = None,
    *,
    counts: bool = True,
) -> WebSocketSession:
    """An authenticated session from `name` to the target. Raises `HopFailed`, `SeeOtherUri`.

    `counts`: with XEP-0198; without, anything may be written past the stream.
    The certificate of the endpoint is not judged: the load test measures it, it does not trust it.
    """
    stream = _new_stream(settings, name, secret, resume, counts=counts)
    negotiation = Negotiation(owner)
    session = WebSocketSession(stream, negotiation, ping_interval=_PING_INTERVAL)
    try:
        websocket = await connect(
            settings.url,
            session,
            address=settings.address,
            context=context,
            max_message=2 * stream.config.limits.stanza_bytes,
            timeout=TIMEOUT,
        )
    except WebSocketFailed as exc:
        raise HopFailed(str(exc), resolved=True) from None
    session.attach(websocket)
    stream.open()
    session.pump()
    await negotiation.finish(session, TIMEOUT)
    return session


def _new_stream(
    settings: FleetSettings, name: str, secret: bytes, resume: Suspended | None, *, counts: bool
) -> InitiatingStream:
    config = StreamConfig(
        dialback_secret=secret,
        use_external=settings.auth == "external",
        use_dialback=settings.auth == "dialback",
        use_management=counts,
        use_bidi=settings.bidi,
        resumption_seconds=settings.resumption_seconds,
    )
    parser = MessageParser(config.limits)
    return InitiatingStream(
        config,
        WebSocketFraming(),
        parser.parse,
        parser,
        asyncio.get_running_loop().time(),
        sender=name,
        target=settings.target,
        resume=resume,
    )
