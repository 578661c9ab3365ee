"""A load test inside one locust process: the engine, the fleet, and what locust wants to know.

On the master there is no fleet; it merges what the workers report.
"""

import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from loadtest.load import tables
from loadtest.load.attacks import Victim
from loadtest.load.certificates import LoadAuthority
from loadtest.load.domain import RemoteDomain
from loadtest.load.engine import Engine
from loadtest.load.fleet import Fleet
from loadtest.load.options import fleet_settings, parse_pids
from loadtest.load.processes import Processes
from loadtest.load.record import Record
from loadtest.load.thresholds import InvalidThreshold, parse_threshold
from loadtest.report.figures import Run, figures, metrics, progress
from loadtest.report.files import summary, write_report
from workers.gateway.tls import client_context

FLUSH_INTERVAL = 0.2
_FINAL = "fedgate_final"
"""The message with which a worker tells the master all that is left to tell."""
# Seconds that the last report of a worker may take after its own end.
_WORKER_PATIENCE = 10.0
# Seconds between lines of progress that are not overwritten.
_LINE_INTERVAL = 5


class LoadTest:
    """Listens to one locust environment; scenarios find it as `environment.load`."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.options = environment.parsed_options
        self.engine: Engine | None = None
        self.fleet: Fleet | None = None
        self.processes = Processes({})
        self.exit_code: int | None = None
        self._run = Run()
        self._numbers: Counter[str] = Counter()
        self._first: dict[str, RemoteDomain] = {}
        self._greenlets: list[Any] = []
        self._workers: dict[str, Run] = {}
        self._finals: set[str] = set()
        self._is_reported = True
        self._found: dict[str, Any] | None = None
        self._reported_until = 0
        events = environment.events
        events.test_start.add_listener(self._on_test_start)
        events.test_stopping.add_listener(self._on_test_stopping)
        events.test_stop.add_listener(self._on_test_stop)
        events.report_to_master.add_listener(self._on_report_to_master)
        events.worker_report.add_listener(self._on_worker_report)
        events.quitting.add_listener(self._on_quitting)
        events.quit.add_listener(self._on_quit)
        if self._is_master:
            environment.runner.register_message(_FINAL, self._on_final)

    # What scenarios use.

    def new_domain(self) -> RemoteDomain:
        """The next remote domain, connected; the greenlet waits for that."""
        engine, fleet = self._get()

        async def make() -> RemoteDomain:
            domain = fleet.new_domain()
            await domain.connect()
            return domain

        domain: RemoteDomain = engine.run(make)
        return domain

    def call(self, call: Callable[[], object]) -> None:
        """Have the engine call it soon."""
        self._get()[0].call(call)

    def run(self, work: Callable[[], Any]) -> Any:
        """Wait for a coroutine of the engine's."""
        return self._get()[0].run(work)

    def retire(self, domain: RemoteDomain) -> None:
        """The domain's user has gone: settle and close, unless the whole fleet is stopping."""
        engine, fleet = self._get()
        engine.call(lambda: fleet.retire(domain))

    def next_number(self, scenario: str) -> int:
        """Counts the users of a scenario from 0."""
        number = self._numbers[scenario]
        self._numbers[scenario] += 1
        return number

    def first_of(self, scenario: str, domain: RemoteDomain) -> RemoteDomain:
        """The first domain of a scenario; `domain` if there is none yet."""
        return self._first.setdefault(scenario, domain)

    def victim(self, domain: RemoteDomain) -> Victim:
        """What an attack of the domain's needs; a domain that is not its own is the next one's."""
        _, fleet = self._get()
        other = f"other-{domain.name}"
        return Victim(
            fleet.settings,
            domain.name,
            other,
            domain.context,
            client_context(fleet.certificate_for(other)),
            fleet.authority.dialback_secret,
        )

    def fire(self, kind: str, name: str, seconds: float | None, error: str = "") -> None:
        """One line in locust's tables."""
        tables.fire(self.environment, kind, name, seconds, error)

    # What locust tells.

    def _on_test_start(self, environment: Any, **_: Any) -> None:
        options = self.options
        self._is_reported = False
        self._run = Run(started_at=time.time(), options=_chosen(options))
        for kept in (self._workers, self._finals, self._numbers, self._first):
            kept.clear()
        self._reported_until = 0
        own = {} if self._is_worker else parse_pids(options.pids)
        own[f"load {self._prefix}".strip()] = os.getpid()
        self.processes = Processes(own, "" if self._is_worker else options.admin)
        if not self._is_master:
            try:
                self._start_fleet()
            except OSError as exc:
                # Locust would go on without: events may not fail.
                self._give_up(f"--listen {options.listen}: {exc}")
                return
        self._greenlets = [gevent.spawn(self._sample_all)]
        if not self._is_master:
            self._greenlets.append(gevent.spawn(self._flush_all))

    def _start_fleet(self) -> None:
        settings = fleet_settings(self.options, self._prefix)
        if self.engine is None:
            self.engine = Engine()
        authority = LoadAuthority(Path(self.options.ca))
        run = secrets.token_hex(2)

        async def make() -> Fleet:
            fleet = Fleet(settings, authority, run)
            await fleet.start()
            return fleet

        self.fleet = self.engine.run(make)

    def _give_up(self, reason: str) -> None:
        print(reason, file=sys.stderr)
        self.fleet, self._is_reported, self.exit_code = None, True, 2
        gevent.spawn(self.environment.runner.quit)

    def _on_test_stopping(self, environment: Any, **_: Any) -> None:
        # Before each user is told to stop: who listens must not leave while others still speak.
        if self.fleet is not None and self.engine is not None:
            self.engine.call(self.fleet.keep_all)

    def _on_test_stop(self, environment: Any, **_: Any) -> None:
        if self._is_reported:
            return
        if self.fleet is not None and self.engine is not None:
            self.engine.run(self.fleet.stop)
            self._flush()
        gevent.killall(self._greenlets)
        self.processes.sample()
        if self._is_worker:
            self._is_reported = True
            environment.runner.send_message(_FINAL, self._told())
            return
        if self._is_master:
            self._await_workers()
        self._report()

    def _on_report_to_master(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if self.fleet is not None:
            data["fedgate"] = self._told()

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if "fedgate" in data:
            self._take(client_id, data["fedgate"])

    def _on_final(self, environment: Any, msg: Any, **_: Any) -> None:
        self._take(msg.node_id, msg.data)
        self._finals.add(msg.node_id)

    def _told(self) -> dict[str, Any]:
        """What a worker tells the master: of the seconds only those that are new."""
        engine, fleet = self._get()
        since = self._reported_until

        async def tell() -> tuple[dict[str, Any], int]:
            record = fleet.ledger.record
            return record.to_json(since=since), max(record.seconds, default=0) - 1

        record, self._reported_until = engine.run(tell)
        usages = {name: each.to_json() for name, each in self.processes.usages.items()}
        return {"record": record, "usages": usages}

    def _take(self, worker: str, told: dict[str, Any]) -> None:
        run = self._workers.setdefault(worker, Run())
        newer = Record.from_json(told["record"])
        newer.seconds = {**run.record.seconds, **newer.seconds}
        run.record = newer
        run.take_usages(told["usages"])

    def _on_quitting(self, environment: Any, **_: Any) -> None:
        if self._is_worker:
            return
        if not self._is_reported:  # stopped before locust said so
            self._on_test_stop(environment)
        if self.exit_code is not None:
            environment.process_exit_code = self.exit_code

    def _on_quit(self, exit_code: int, **_: Any) -> None:
        # After locust's own tables, so that it is the last that is seen.
        if self.options.progress and self._found is not None:
            print(summary(self._found))

    # Inside. While the engine runs a test, its record is looked at in its thread only.

    @property
    def _is_master(self) -> bool:
        return hasattr(self.environment.runner, "clients")

    @property
    def _is_worker(self) -> bool:
        return hasattr(self.environment.runner, "master_host")

    @property
    def _prefix(self) -> str:
        return f"w{self.environment.runner.worker_index}" if self._is_worker else ""

    def _get(self) -> tuple[Engine, Fleet]:
        if self.engine is None or self.fleet is None:
            raise RuntimeError("no test is running in this process")
        return self.engine, self.fleet

    def _sample_all(self) -> None:
        while True:
            self.processes.sample()
            if self.options.progress and not self._is_worker:
                self._tell_progress()
            gevent.sleep(1)

    def _flush_all(self) -> None:
        while True:
            gevent.sleep(FLUSH_INTERVAL)
            self._flush()

    def _flush(self) -> None:
        if self.fleet is not None:
            tables.flush(self.environment, self.fleet.outcomes, FLUSH_INTERVAL)

    def _await_workers(self) -> None:
        """Until each has settled: locust itself, when it quits, does not wait for that."""
        runner = self.environment.runner
        expected = {client.id for client in runner.clients.all}
        runner.send_message("stop")  # a second one changes nothing
        deadline = time.monotonic() + self.options.settle + _WORKER_PATIENCE
        while expected - self._finals and time.monotonic() < deadline:
            gevent.sleep(0.1)

    def _merged(self) -> Run:
        run = Run(started_at=self._run.started_at, options=self._run.options)
        run.take_usages({name: each.to_json() for name, each in self.processes.usages.items()})
        if self.fleet is not None:
            run.record.merge(self.fleet.ledger.record)
        for each in self._workers.values():
            run.record.merge(each.record)
            run.usages.update(each.usages)
        return run

    def _tell_progress(self) -> None:
        """On one line of a terminal; elsewhere a line now and then."""
        is_terminal = sys.stderr.isatty()
        if not is_terminal and int(time.time()) % _LINE_INTERVAL:
            return
        elapsed = time.time() - self._run.started_at
        if self._is_master:
            line = progress([each.record for each in self._workers.values()], elapsed)
        else:
            engine, fleet = self._get()

            async def tell() -> str:
                return progress([fleet.ledger.record], elapsed)

            line = engine.run(tell)
        print(
            f"\r{line}" if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()

    def _report(self) -> None:
        self._is_reported = True
        run = self._merged()
        try:
            thresholds = [parse_threshold(text) for text in self.options.fail_if]
            run.broken = [each.text for each in thresholds if each.holds(metrics(run))]
        except InvalidThreshold as exc:
            print(exc, file=sys.stderr)
            self.exit_code = 2
        else:
            if thresholds:
                self.exit_code = 1 if run.broken else 0
        self._found = figures(run)
        if self.options.report:
            write_report(Path(self.options.report), self._found)


def _chosen(options: Any) -> dict[str, Any]:
    """The options that a reader of the report may ask about."""
    wanted = (
        *("url", "target", "auth", "one_way", "no_resume", "mix", "rate", "burst", "size"),
        *("num_users", "spawn_rate", "run_time", "preset", "fail_if"),
    )
    return {name: getattr(options, name, None) for name in wanted}
