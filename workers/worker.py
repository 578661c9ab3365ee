"""One worker process: wires the parts of the data plane together and runs until told to stop."""

import argparse
import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from coordinator import accounts, logs
from coordinator.address import parse_address
from coordinator.client import ControlPlane, ControlPlaneUnavailable
from coordinator.config import Config
from coordinator.configfile import load
from coordinator.configvalue import ConfigError
from coordinator.handover import SocketKeeper, handover_path
from coordinator.pins import PinsUnreadable
from coordinator.reload import changed, merged
from coordinator.routes import slot_of
from workers.gateway.budget import Budget
from workers.gateway.certificates import CertificateProblem
from workers.gateway.component import ComponentAttachment, ComponentConnector
from workers.gateway.discovery import Discovery
from workers.gateway.drain import drain
from workers.gateway.garbage import Garbage
from workers.gateway.hostmeta import InvalidHostMeta
from workers.gateway.identity import TrustProblem, TrustSources
from workers.gateway.idleness import Idleness
from workers.gateway.judge import Judge
from workers.gateway.local_connector import LocalConnector
from workers.gateway.local_listener import LocalListener
from workers.gateway.local_trust import LocalTrust
from workers.gateway.operations import Operations
from workers.gateway.public_listener import PublicListener
from workers.gateway.publication import Publication
from workers.gateway.remote_connector import RemoteConnector
from workers.gateway.replay import Replay
from workers.gateway.resolver import Resolver
from workers.gateway.router import Router
from workers.gateway.siblings import Siblings
from workers.gateway.steering import Steering
from workers.gateway.tls import LeafContexts, OwnCertificates, self_test
from workers.gateway.tls_engine import TLSFailed
from workers.xmpp.names import names_held

log = logging.getLogger("workers.worker")

CANNOT_BOOT = 78
"""Exit code of a worker that cannot start: the coordinator stops with its message (EX_CONFIG)."""
REPORT_INTERVAL = 1.0

_CANNOT_BOOT = (
    CertificateProblem,
    ConfigError,
    ControlPlaneUnavailable,
    InvalidHostMeta,
    OSError,
    PinsUnreadable,
    TrustProblem,
)


class Worker:
    """The parts of one worker process."""

    def __init__(
        self, config: Config, path: str | None, worker_id: str, sockets: dict[str, list[int]]
    ) -> None:
        self._config = config
        self._path = path
        self._id = worker_id
        self._sockets = sockets
        self._run_dir = Path(config.gateway.state_dir) / "run"
        self._stopping = asyncio.Event()
        self._draining = asyncio.Event()
        self._pending: list[str] = []
        """Keys that have changed in the file and need a restart."""
        self._keeper = SocketKeeper(
            handover_path(self._run_dir, slot_of(worker_id), os.getpid()), sockets
        )
        self.control = ControlPlane(config, worker_id)
        self.control.on_command = self._on_command

    async def run(self) -> int:
        """Start, serve, drain; returns the exit code."""
        await self._start()
        Garbage().start()
        self._watch_signals()
        reporting = asyncio.create_task(self._report())
        log.info("worker %s serves %s", self._id, ", ".join(self._config.gateway.domains))
        waits = [asyncio.create_task(e.wait()) for e in (self._draining, self._stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping.is_set():
            drain = asyncio.create_task(self._drain())
            await asyncio.wait([drain, waits[1]], return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
        reporting.cancel()
        for wait in waits:
            wait.cancel()
        await self._close()
        return 0

    # Start.

    async def _start(self) -> None:
        config, control = self._config, self.control
        certificates = self.certificates = OwnCertificates(config)
        for problem in certificates.problems:
            log.warning("%s", problem)
        _test_tls(config, certificates)
        authorities = self.authorities = TrustSources(config)
        authorities.check()
        trust = self.trust = LocalTrust(config, authorities)
        path = accounts.account_path(config.gateway.state_dir, self._id)
        self.account = accounts.Account.create(path)
        await control.start()
        self.resolver = Resolver(config.local.upstream_dns)
        self.discovery = Discovery(
            config, self.resolver, control.load_discovery, control.save_discovery
        )
        judge = self.judge = Judge(authorities, self.discovery)
        contexts = LeafContexts()
        secret = control.dialback_secret
        is_component = config.local.attach == "component"
        components = ComponentConnector(config)
        self.router = Router(
            config,
            self.account,
            RemoteConnector(config, self.discovery, certificates, judge, secret),
            components if is_component else LocalConnector(config, control, contexts, trust),
            control.journal,
        )
        control.on_dealt = Replay(self.router, config).on_dealt
        self.siblings = Siblings(self._run_dir, self._id)
        self.publication = Publication(config, self.resolver)
        self.public = PublicListener(
            config,
            self.router,
            certificates,
            judge,
            self.publication,
            secret,
        )
        self.budget = Budget(config, self.public.admission, self.router)
        self.local: LocalListener | ComponentAttachment
        if is_component:
            self.local = ComponentAttachment(
                config, self.router, control, components, self.public.errors
            )
        else:
            self.local = LocalListener(
                config,
                self.router,
                self.discovery,
                self.resolver,
                control,
                self.siblings,
                contexts,
                trust,
            )
        self.public.join(control, self.siblings)
        self.public.on_way_back = self.discovery.note_way_back
        self.steering = Steering(config, self.discovery.is_native)
        self.operations = Operations(self.router, self.public, self.local)
        control.on_request = self.operations.answer
        self.idleness = Idleness(self.operations.sessions)
        if self._sockets:
            self._keeper.start()
        await self._listen()

    async def _listen(self) -> None:
        config = self._config
        await self.siblings.start()
        first = asyncio.create_task(self.publication.refresh())
        await asyncio.wait([first], timeout=1.0)  # a dead resolver must not delay the start
        self._fresh = asyncio.create_task(self.publication.keep_fresh())
        if config.local.dns:
            udp, tcp = self._inherited("dns-udp"), self._inherited("dns-tcp")
            await self.steering.start(udp[0] if udp else None, tcp[0] if tcp else None)
        local = self._inherited("local")
        if not local and config.local.attach == "s2s":
            local = [_bind(config.local.listen)]
        self.local.start(local)
        public = self._inherited("websocket") or [_bind(a) for a in config.websocket.listen]
        self.public.start(public)

    def _inherited(self, name: str) -> list[socket.socket]:
        return [socket.socket(fileno=number) for number in self._sockets.get(name, [])]

    # Life.

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C: the coordinator decides
        loop.add_signal_handler(signal.SIGHUP, lambda: self._on_command("reload"))

    def _on_term(self) -> None:
        self._on_command("stop" if self._draining.is_set() else "drain")

    def _on_command(self, verb: str) -> None:
        if verb == "drain":
            self._draining.set()
        elif verb == "stop":
            self._stopping.set()
        else:
            self._reload()

    def _reload(self) -> None:
        """Read configuration and certificates again; what is broken changes nothing."""
        config = self._config
        before = replace(config)
        try:
            new = load(self._path)
            change = changed(config, new)
            TrustSources(new).check()
            config.become(merged(config, new, "live"))
            self.trust.reload()
            self.certificates.reload()
        except (CertificateProblem, ConfigError, PinsUnreadable, TrustProblem) as exc:
            config.become(before)
            log.error("reload: nothing was changed: %s", exc)
            return
        for problem in self.certificates.problems:
            log.warning("%s", problem)
        self.authorities.reload()
        self.public.reload()
        if isinstance(self.local, ComponentAttachment):
            self.local.reload()
        logs.set_level(config.gateway.log_level)
        self._pending = [*change.inner, *change.outer]
        log.info("reload: %s", change)

    async def _report(self) -> None:
        steps = (
            self.router.each_second,
            self.public.resumptions.each_second,
            self.public.admission.each_second,
            self.budget.each_second,
            self.idleness.each_second,
            lambda: self.control.report(self.snapshot()),
        )
        while True:
            do_all(steps)
            await asyncio.sleep(REPORT_INTERVAL)

    def snapshot(self) -> dict[str, Any]:
        """What the coordinator shows of this worker."""
        return {
            "state": "draining" if self._draining.is_set() else "running",
            "sessions": self.operations.count(),
            "routes": self.local.routes,
            "rss_bytes": self.budget.rss,
            "descriptors": self.budget.descriptors,
            "short_of_memory": self.budget.short_for,
            "names": names_held(),
            "journal_bytes": self.control.journal.bytes,
            "journal_entries": self.control.journal.entries,
            "restart_needed": self._pending,
            "cpu_seconds": round(time.process_time(), 3),
            "certificate_expires_at": self.certificates.expires_at(self._config.gateway.domains),
            "degraded": sorted(self.control.degraded),
            "errors": list(self.public.errors),
            "refused": dict(self.public.refusals.counts),
            "ledger": self.account.snapshot(),
        }

    # End.

    async def _drain(self) -> None:
        """Stop accepting, let streams end in order, deliver what is held."""
        log.info("worker %s drains", self._id)
        timeout = self._config.gateway.drain_timeout
        await drain(self.control, self.local, self.public, self.router, timeout=timeout)

    async def _close(self) -> None:
        self.local.stop()
        self.public.stop()
        self._fresh.cancel()
        await self.router.drain(0)
        await self.local.close()
        await self.steering.close()
        await self.siblings.close()
        self._keeper.close()
        await self.judge.close()
        await self.discovery.close()
        self.router.recount()
        self.control.report(self.snapshot())
        await self.control.close()


def do_all(steps: Iterable[Callable[[], None]]) -> None:
    """What one step raises is logged: a silent worker would be killed, with all its sessions."""
    for step in steps:
        try:
            step()
        except Exception:
            log.exception("a step of each second failed")


def _test_tls(config: Config, certificates: OwnCertificates) -> None:
    """Say at the start, not at the first refusal, that this OpenSSL hides client certificates."""
    pair = certificates.pair_for(config.gateway.domains[0])
    if pair is None:
        return
    try:
        self_test(pair)
    except TLSFailed as exc:
        log.error(
            "TLS self-test: %s; certificates of remote servers cannot be judged, so SASL EXTERNAL "
            "is off and only dialback is left; install another OpenSSL or cryptography package",
            exc,
        )


def _bind(text: str) -> socket.socket:
    """Bind an address that other workers may bind, too."""
    address = parse_address(text)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(tuple(address))
    sock.listen(1024)
    return sock


def _parse_sockets(text: str) -> dict[str, list[int]]:
    """`websocket=5,6;local=7` → {"websocket": [5, 6], "local": [7]}"""
    return {
        name: [int(number) for number in numbers.split(",")]
        for name, _, numbers in (part.partition("=") for part in text.split(";") if part)
    }


def _worker_id(config: Config, slot: str) -> str:
    """`<gateway>/<slot>.<incarnation>`: no two processes ever share one."""
    return f"{config.gateway.name or socket.gethostname()}/{slot}.{time.time_ns() // 1000:x}"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fedgate worker", description=__doc__)
    parser.add_argument("--config", help="path of fedgate.toml")
    parser.add_argument("--id", default=f"p{os.getpid()}", help="name within the gateway")
    parser.add_argument("--sockets", default="", help="inherited listening sockets")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run one worker in the foreground."""
    arguments = _arguments(argv)
    # Each session takes a descriptor, each native stream two.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        config = load(arguments.config)
        logs.set_up(config.gateway.log_level)
        worker_id = _worker_id(config, arguments.id)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(
                Worker(config, arguments.config, worker_id, _parse_sockets(arguments.sockets)).run()
            )
    except _CANNOT_BOOT as exc:
        # In one write: others may say the same at the same time.
        sys.stderr.write(f"fedgate: worker cannot start: {exc}\n")
        return CANNOT_BOOT


if __name__ == "__main__":
    sys.exit(main())
