"""A stream of both directions, cut anywhere and resumed: nothing lost, nothing twice, in order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.xmpp.stream_pair import CAPULET, MONTAGUE, initiating, message, receiving, stanza
from workers.xmpp.events import (
    Acknowledged,
    ResumptionRequested,
    StanzasReceived,
    StreamFailed,
    StreamOpened,
)
from workers.xmpp.management import Suspended
from workers.xmpp.stanza import Stanza
from workers.xmpp.state import State

OPTIONS = {"use_bidi": True, "resumption_seconds": 300}
ACTIONS = ("send", "send", "carry", "carry", "handle", "acknowledge", "ask")


class Side:
    """One end with the shell it needs: what it has sent, what is unacknowledged, what arrived."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unacknowledged: list[Stanza] = []
        self.sent: list[str] = []
        self.arrived: list[str] = []
        self.wire: list[bytes] = []

    def send(self) -> None:
        id = f"{self.name}{len(self.sent)}"
        if self.name == "I":
            made = stanza(message(id))
        else:
            made = stanza(message(id, sender=f"romeo@{MONTAGUE}", target=f"juliet@{CAPULET}"))
        self.stream.send_stanzas([made])
        self.sent.append(id)
        self.unacknowledged.append(made)

    def drain(self) -> None:
        for event in self.stream.events_received():
            if isinstance(event, StanzasReceived):
                self.arrived += [one.id or "" for one in event.stanzas]
            elif isinstance(event, Acknowledged):
                del self.unacknowledged[: event.count]
            elif isinstance(event, StreamOpened):
                self.stream.offer(external=True, dialback=False)
            elif isinstance(event, ResumptionRequested):
                self.request = event
            else:
                assert not isinstance(event, StreamFailed), event
        self.wire += self.stream.data_to_send()

    def settle(self) -> None:
        self.stream.mark_handled(self.stream.received.pending)


class Scene:
    def __init__(self) -> None:
        self.sides = {name: Side(name) for name in ("I", "R")}
        self._connect(None)
        self._run()

    def _connect(self, resume: Suspended | None) -> None:
        ours, theirs = self.sides["I"], self.sides["R"]
        ours.stream = initiating(resume=resume, **OPTIONS)
        theirs.stream = receiving(**OPTIONS)
        for side in self.sides.values():
            side.wire.clear()
            side.request = None
        ours.stream.open()

    def _run(self) -> None:
        while True:
            for side in self.sides.values():
                side.drain()
            if not any(side.wire for side in self.sides.values()):
                return
            for name in self.sides:
                self.carry(name, 1000)

    def carry(self, name: str, size: int) -> None:
        """The first `size` messages of what `name` has written arrive."""
        side, other = self.sides[name], self.sides["R" if name == "I" else "I"]
        side.drain()
        moved, side.wire = side.wire[:size], side.wire[size:]
        if moved:
            other.stream.receive(moved)
            other.drain()

    def do(self, action: str, name: str, size: int) -> None:
        side = self.sides[name]
        if action == "carry":
            self.carry(name, size)
        elif action == "send":
            for _ in range(size):
                side.send()
        elif action == "handle":
            side.stream.mark_handled(min(size, side.stream.received.pending))
        elif action == "acknowledge":
            side.stream.send_ack()
        else:
            side.stream.request_ack(again=size % 2 == 0)

    def cut(self, again_after: int | None) -> None:
        """What is on the wire is lost; the new connection may be lost while it resumes, too."""
        halves = {}
        for name, side in self.sides.items():
            side.drain()
            side.stream.receive_eof()
            side.drain()
            halves[name] = side.stream.suspended()
            assert halves[name] is not None
            side.settle()
        if again_after is not None:
            self._attempt(halves, again_after)
            for name, side in self.sides.items():
                side.stream.receive_eof()
                side.drain()
                assert side.stream.received.pending == 0 or side.stream.resumed
                side.settle()
                halves[name] = side.stream.suspended() or halves[name]
        self._attempt(halves, 1000)
        assert all(side.stream.state is State.ESTABLISHED for side in self.sides.values())
        self._resend("I")
        self._resend("R")

    def _attempt(self, halves: dict[str, Suspended], rounds: int) -> None:
        self._connect(halves["I"])
        ours, theirs = self.sides["I"], self.sides["R"]
        for _ in range(min(rounds, 12)):
            self.carry("I", 1000)
            if theirs.request is not None:
                kept, request = halves["R"], theirs.request
                theirs.request = None
                covered = theirs.stream.accept_resumption(kept, request.h)
                del theirs.unacknowledged[:covered]
            self.carry("R", 1000)
            if ours.stream.resumed and ours.stream.covered:
                del ours.unacknowledged[: ours.stream.covered]
                ours.stream.covered = 0

    def _resend(self, name: str) -> None:
        side = self.sides[name]
        side.stream.send_again(side.unacknowledged)


step = st.tuples(st.sampled_from(ACTIONS), st.sampled_from("IR"), st.integers(1, 6))


@settings(max_examples=300, deadline=None)
@given(
    lives=st.lists(
        st.tuples(st.lists(step, max_size=15), st.one_of(st.none(), st.integers(0, 12))),
        min_size=1,
        max_size=6,
    )
)
def test_everything_arrives_once_and_in_order_however_often_the_connection_is_cut(lives) -> None:
    scene = Scene()
    for steps, again_after in lives:
        for action, name, size in steps:
            scene.do(action, name, size)
        scene.cut(again_after)
    scene._run()
    for side in scene.sides.values():
        side.settle()
        side.stream.send_ack()
    scene._run()
    ours, theirs = scene.sides["I"], scene.sides["R"]
    assert theirs.arrived == ours.sent and ours.arrived == theirs.sent
    assert not ours.unacknowledged and not theirs.unacknowledged
