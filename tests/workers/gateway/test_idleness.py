"""Sessions without traffic give up what only traffic needs, and go on as before."""

import math
from collections.abc import Iterator

from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import LOCAL, FarServer, message, on_quiet_loop, until
from workers.gateway.idleness import ROUND, Idleness
from workers.gateway.session import Session
from workers.xmpp.parser import StreamParser


class Counting(Idleness):
    """Of sessions that say how often they were looked at."""

    def __init__(self, count: int) -> None:
        self.looks = [0] * count
        self.alive = [Looked(self.looks, at) for at in range(count)]
        super().__init__(lambda: iter(self.alive))  # type: ignore[arg-type,return-value]


class Looked:
    ended = False
    proved_until = math.inf

    def __init__(self, looks: list[int], at: int) -> None:
        self._looks = looks
        self._at = at

    def shrink_if_idle(self) -> None:
        self._looks[self._at] += 1


def test_each_session_is_looked_at_once_in_a_round() -> None:
    for count in (0, 1, ROUND, ROUND + 1, 10 * ROUND + 3):
        looking = Counting(count)
        for _ in range(ROUND):
            before = sum(looking.looks)
            looking.each_second()
            assert sum(looking.looks) - before <= -(-count // ROUND)
        assert all(looking.looks)


def test_what_has_ended_is_neither_held_nor_looked_at() -> None:
    looking = Counting(2 * ROUND)
    looking.each_second()
    looking.alive[0].ended = True
    for at in range(1, 2 * ROUND):
        looking.alive[at] = looking.alive[0]
    for _ in range(ROUND):
        looking.each_second()
    assert sum(looking.looks) == 2


@on_quiet_loop
async def test_an_idle_session_shrinks_and_takes_up_again() -> None:
    far = await FarServer().serve_tcp()
    peer = Peer()
    session = peer.session = await far.connect(peer)

    def sessions() -> Iterator[Session]:
        yield session

    idleness = Idleness(sessions)
    parser = session.stream._parser
    assert isinstance(parser, StreamParser)
    for _ in range(ROUND + 1):
        idleness.each_second()
    assert not hasattr(parser._body, "_parser")
    for id in ("one", "two"):
        session.stream.send_stanzas([message(id, sender=LOCAL)])
        session.stream.request_ack()
        session.write()
        await until(lambda: not session.stream.sent.outstanding)
        idleness.each_second()
        assert hasattr(parser._body, "_parser")
    await far.close()
