"""How far accepted sessions had come, kept in Redis for when their worker dies (XEP-0198 §5).

Written at most once a second per session that went on, so what is read may be older than what the
remote knows: whoever resumes from it takes what comes then for possibly a second copy.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable

import msgspec

from coordinator.routes import DomainPair
from coordinator.store import Store, StoreUnavailable

# Written at the same time; a worker may have thousands of sessions.
SAVED_AT_ONCE = 64


class LostSession(msgspec.Struct, array_like=True, frozen=True):
    """What a successor must know of a session."""

    local: str
    remote: str
    handled: int
    """Stanzas of the remote's that were handled, modulo 2^32."""
    seconds: int
    bidirectional: bool

    @property
    def pair(self) -> DomainPair:
        return DomainPair(self.local, self.remote)


class LostSessions:
    """Sessions by the id under which the remote resumes them. Nothing happens without Redis."""

    def __init__(self, store: Store, on_away: Callable[[StoreUnavailable], None]) -> None:
        self._store = store
        self._on_away = on_away

    async def save(self, sessions: Iterable[tuple[str, LostSession]]) -> None:
        """Keep each for its `seconds`, from now on."""
        waiting = list(sessions)
        try:
            for start in range(0, len(waiting), SAVED_AT_ONCE):
                await asyncio.gather(
                    *(
                        self._store.put_session(_name(id), _encode(session), session.seconds)
                        for id, session in waiting[start : start + SAVED_AT_ONCE]
                    )
                )
        except StoreUnavailable as exc:
            self._on_away(exc)

    async def take(self, id: str) -> LostSession | None:
        """The session, for this caller alone; None if there is none."""
        try:
            payload = await self._store.take_session(_name(id))
        except StoreUnavailable as exc:
            self._on_away(exc)
            return None
        try:
            session = msgspec.msgpack.decode(payload or b"", type=LostSession)
        except msgspec.DecodeError:
            return None
        is_sound = 0 <= session.handled < 1 << 32 and 0 < session.seconds <= 86400
        return session if is_sound else None


def _name(id: str) -> str:
    """Ids come from peers: they may be long and contain anything."""
    return hashlib.blake2b(id.encode(), digest_size=16).hexdigest()


def _encode(session: LostSession) -> bytes:
    return msgspec.msgpack.encode(session)
