"""Waiting for a session of ours to be negotiated, before a hop takes it over."""

import asyncio
from typing import Any

from workers.gateway.failure import HopFailed
from workers.gateway.session import Session, SessionOwner
from workers.xmpp.events import (
    AuthenticationFailed,
    Event,
    StanzaRefused,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
)


class SeeOtherUri(Exception):
    """The peer closed and named another endpoint (RFC 7395 §3.6.1)."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri


class Negotiation:
    """Owns a session until its stream is established; then `owner` does."""

    def __init__(self, owner: SessionOwner) -> None:
        self._owner = owner
        self._early: list[Event] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: HopFailed | SeeOtherUri | None = None

    async def finish(self, session: Session, timeout: float) -> None:
        """Return when stanzas may be sent. Raises `HopFailed` or `SeeOtherUri`."""
        session.start_timer()
        try:
            async with asyncio.timeout(timeout):
                await self._done
            if self._failure is not None:
                # Not kept, be it in the future: its traceback holds us and the session.
                raise self._take_failure()
        except TimeoutError:
            self._drop(session)
            raise HopFailed(
                f"no authenticated stream within {timeout:g} s", resolved=True
            ) from None
        except BaseException:
            self._drop(session)
            raise

    def _take_failure(self) -> HopFailed | SeeOtherUri:
        failure, self._failure = self._failure, None
        assert failure is not None
        return failure

    def _drop(self, session: Session) -> None:
        session.owner = self  # it may just have been established: nobody takes it now
        session.close()

    def on_event(self, session: Session, event: Event) -> None:
        kind = type(event)
        if kind is StreamEstablished:
            if not self._done.done():
                session.owner = self._owner
                self._done.set_result(None)
                early, self._early = self._early, []
                for each in early:
                    self._owner.on_event(session, each)
        elif isinstance(event, (StanzasReceived, StanzaRefused)):
            # XEP-0288: the peer need not wait until we are ready.
            self._early.append(event)
        elif isinstance(event, AuthenticationFailed):
            self._fail(HopFailed(event.reason, resolved=True))
        elif isinstance(event, StreamClosed):
            if event.see_other_uri:
                self._fail(SeeOtherUri(event.see_other_uri))
            self._fail(HopFailed(session.reason, resolved=True))

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None:
        self._fail(HopFailed(reason, resolved=True))

    def _fail(self, failure: HopFailed | SeeOtherUri) -> None:
        if not self._done.done():
            self._failure = failure
            self._done.set_result(None)


class NoOwner:
    """Owns a session that somebody only asks one question through."""

    def __init__(self, on_event: Any = None) -> None:
        self._on_event = on_event

    def on_event(self, session: Session, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(session, event)

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None: ...
