"""Any history of a journal and a Redis that loses what it had."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coordinator.journal import Append, Kind, Record, decode_entry
from tests.coordinator.journal_scene import Scene


class AnyHistory(RuleBasedStateMachine):
    """A journal, and a Redis that does, fails or forgets whatever it is asked.

    At any moment Redis holds every record that was told to be kept and is not complete, unless it
    has lost data since it last answered. What is retired and lost then is not written again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene(10**9)
        self.stream: dict[int, list[str]] = {}
        self.last = 0
        self.flying: Append | None = None
        self.is_away = False
        self.has_lost = False
        self.unfinished: dict[str, Record] = {}
        self.retired: dict[str, Record] = {}
        self.count = 0

    @initialize()
    def begin(self) -> None:
        self.scene.journal.regain_contact(None)

    @rule(kind=st.sampled_from(["out", "note"]))
    def add(self, kind: Kind) -> None:
        self.count += 1
        name = str(self.count)
        self.unfinished[name] = self.scene.add(name, kind=kind)
        if self.is_away:
            self.scene.journal.lose_contact()

    @rule(choose=st.integers(0, 100))
    def complete(self, choose: int) -> None:
        if self.unfinished:
            name = list(self.unfinished)[choose % len(self.unfinished)]
            self.scene.journal.complete(self.unfinished.pop(name))

    @rule(choose=st.integers(0, 100))
    def retire(self, choose: int) -> None:
        if self.unfinished:
            name = list(self.unfinished)[choose % len(self.unfinished)]
            self.retired[name] = self.unfinished.pop(name)
            self.scene.journal.retire(self.retired[name])

    @rule(choose=st.integers(0, 100))
    def complete_retired(self, choose: int) -> None:
        if self.retired:
            name = list(self.retired)[choose % len(self.retired)]
            self.scene.journal.complete(self.retired.pop(name))

    @rule()
    def send(self) -> None:
        if not self.is_away and self.flying is None:
            self.flying = self.scene.journal.next_append()

    def execute(self) -> None:
        append = self.flying
        assert append is not None
        for number in append.finished:
            self.stream.pop(number, None)
        for number, payload in (
            (append.number - 1, append.notes),
            (append.number, append.payload),
        ):
            if payload:
                assert number > self.last and number >= append.floor
                self.stream[number] = [dealt.data.decode() for dealt in decode_entry(payload)]
                self.last = number
        self.stream = {n: names for n, names in self.stream.items() if n >= append.floor}

    @rule()
    def answer(self) -> None:
        if self.flying is not None:
            self.execute()
            self.flying = None
            self.scene.journal.appended()

    @rule(is_executed=st.booleans())
    def lose(self, is_executed: bool) -> None:
        if not self.is_away:
            if self.flying is not None and is_executed:
                self.execute()
            self.flying, self.is_away = None, True
            self.scene.journal.lose_contact()

    @rule(what=st.sampled_from(["all", "newest"]))
    def forget(self, what: str) -> None:
        if self.is_away:
            self.has_lost = True
            if what == "all":
                self.stream, self.last = {}, 0
            elif self.last:
                self.stream.pop(self.last, None)
                self.last -= 1

    @rule()
    def come_back(self) -> None:
        if self.is_away:
            self.is_away = False
            self.scene.journal.regain_contact(self.last or None)

    @rule()
    def settle(self) -> None:
        """Everything is written: what Redis holds is what is unfinished."""
        self.come_back()
        while self.flying is not None or self.scene.journal.has_work:
            self.send()
            if self.flying is None:
                break
            self.answer()
        self.has_lost = False
        held = {name for names in self.stream.values() for name in names}
        assert set(self.unfinished) <= held
        self.retired = {name: each for name, each in self.retired.items() if name in held}
        assert len(self.stream) == len(self.scene.journal)

    @invariant()
    def what_was_told_to_be_kept_is_there(self) -> None:
        held = {name for names in self.stream.values() for name in names}
        records = self.unfinished | self.retired
        kept = {name for name, record in records.items() if record.is_kept}
        assert self.has_lost or kept <= held
        assert self.scene.journal.records == len(self.unfinished)
        assert self.scene.journal.bytes == 10 * len(self.unfinished)
        assert self.scene.journal.waiting_bytes >= 0


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
