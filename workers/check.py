"""`fedgate check DOMAIN`: the way to a remote domain, step by step, up to the first that fails.

Works without a running gateway, except for the steering step; nothing is stored, no stanza is sent.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import uvloop

from coordinator.address import Address, parse_address
from coordinator.authority import Authority
from coordinator.config import Config
from coordinator.configfile import load
from coordinator.configvalue import ConfigError
from coordinator.domains import InvalidDomain, normalise_domain
from coordinator.exits import ExitCode
from coordinator.logs import escape
from workers.gateway.addresses import AddressPolicy
from workers.gateway.certificates import CertificateProblem
from workers.gateway.discovery import Discovered, Discovery, NoUsableAddress
from workers.gateway.endpoint_check import EndpointCheck, StepFailed
from workers.gateway.hostmeta import Target
from workers.gateway.identity import TrustProblem, TrustSources
from workers.gateway.judge import Judge
from workers.gateway.native import NativeFailed, connect_native
from workers.gateway.resolver import ResolveFailed, Resolver, ServiceNotOffered
from workers.gateway.steering import Steering
from workers.gateway.tls import OwnCertificates

SERVICE = "_xmpp-server._tcp"
_STEERING_SECONDS = 2.0
_COLOURS = {"ok": "32", "note": "33", "failed": "31"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report. `status` is "ok", "note" (worth knowing) or "failed" (the end)."""

    step: str
    status: str
    text: str
    hint: str = ""


class Check:
    """Goes the way to one remote domain and reports each step as it is done."""

    def __init__(self, config: Config, domain: str, report: Callable[[Line], None]) -> None:
        """Raises `CertificateProblem` when a configured certificate cannot be used."""
        self._config = config
        self._domain = domain
        self._report = report
        self._resolver = Resolver(config.local.upstream_dns)
        self._discovery = Discovery(config, self._resolver, _load_nothing, _save_nothing)
        self._certificates = OwnCertificates(config)
        self._trust = TrustSources(config)
        self._judge = Judge(self._trust, self._discovery)

    async def run(self) -> bool:
        """Report every step; False when one failed."""
        try:
            await self._run()
        except StepFailed as exc:
            self._report(Line(exc.step, "failed", exc.reason, exc.hint))
            return False
        finally:
            await self._judge.close()
            await self._discovery.close()
        return True

    async def _run(self) -> None:
        if self._domain in self._config.gateway.domains:
            raise StepFailed(
                "configuration",
                f"{self._domain} is one of this gateway's own domains",
                "name a remote domain, or run this on another gateway",
            )
        await self._check_dns()
        await self._check_steering()
        found = await self._check_discovery()
        if found.targets:
            await self._check_targets(found)
        else:
            await self._check_native()

    def _say(self, step: str, text: str, status: str = "ok") -> None:
        self._report(Line(step, status, text))

    async def _check_dns(self) -> None:
        try:
            records = await self._resolver.srv(SERVICE, self._domain)
            srv = ", ".join(f"{r.priority} {r.weight} {r.port} {r.host}" for r in records)
        except ServiceNotOffered:
            srv = "'.' (no native s2s)"
        except ResolveFailed as exc:
            srv = f"no answer ({exc.reason})"
        try:
            addresses = ", ".join(await self._resolver.addresses(self._domain))
        except ResolveFailed as exc:
            addresses = ""
            if not srv and not self._config.remote_for(self._domain).url:
                raise StepFailed(
                    "dns",
                    exc.reason,
                    "check the spelling of the domain and local.upstream_dns",
                ) from None
        self._say("dns", f"addresses: {addresses or 'none'}; native SRV: {srv or 'none'}")

    def _check_component(self) -> None:
        """There is no steering: what is declared comes by the component's stream."""
        if self._domain not in self._config.remote:
            raise StepFailed(
                "component",
                f"{self._domain} is not declared under [remote], and local.attach is component",
                f'add a table [remote."{self._domain}"], the lines of `fedgate attach`, and reload',
            )
        self._say("component", "declared; `fedgate sessions` shows whether it is connected")

    async def _check_steering(self) -> None:
        local = self._config.local
        if local.attach == "component":
            self._check_component()
            return
        if not local.dns:
            self._say("steering", 'off (local.dns is "")', "note")
            return
        server = parse_address(local.dns).reachable()
        records = await self._ask_steering(server)
        target = (parse_address(local.listen).port, local.advertise.rstrip("."))
        is_steered = any((port, host) == target for port, host in records)
        decision = Steering(self._config, lambda _domain: False).decide(self._domain)
        if is_steered:
            self._say("steering", f"to port {target[0]} of {local.advertise}: {decision.reason}")
        elif decision.steered:
            self._say(
                "steering", "upstream's answer: known to have no working wss just now", "note"
            )
        else:
            self._say("steering", f"upstream's answer: {decision.reason}", "note")

    async def _ask_steering(self, server: Address) -> list[tuple[int, str]]:
        query = dns.message.make_query(f"{SERVICE}.{self._domain}", "SRV")
        try:
            answer = await dns.asyncquery.udp(
                query, server.host, timeout=_STEERING_SECONDS, port=server.port
            )
        except (OSError, dns.exception.DNSException):
            raise StepFailed(
                "steering",
                f"no answer from the steering DNS server at {server}",
                "start the gateway (fedgate up); is local.dns the address it was started with?",
            ) from None
        return [
            (record.port, record.target.to_text(omit_final_dot=True))
            for rrset in answer.answer
            for record in rrset
            if hasattr(record, "target") and hasattr(record, "port")
        ]

    async def _check_discovery(self) -> Discovered:
        found = await self._discovery.find(self._domain)
        if found.blocked:
            raise StepFailed("host-meta", found.reason, "remove block = true to exchange stanzas")
        if not found.targets:
            self._say("host-meta", f"no wss endpoint: {found.reason}", "note")
        elif found.source == "config":
            self._say("host-meta", f"not asked, configured: {_urls(found)}")
        else:
            self._say("host-meta", _urls(found))
        return found

    async def _check_targets(self, found: Discovered) -> None:
        try:
            self._trust.for_domain(self._domain)
        except TrustProblem as exc:
            raise StepFailed("certificate", str(exc), "correct the path in the file") from None
        last = len(found.targets) - 1
        for index, target in enumerate(found.targets):
            check = EndpointCheck(
                self._config,
                target,
                local=self._config.gateway.domains[0],
                remote=self._domain,
                context=self._certificates.client_context_for(self._config.gateway.domains[0]),
                judge=self._judge,
                pins=found.fresh_pins,
                secret=read_dialback_secret(self._config),
                say=self._say,
            )
            try:
                await check.run(await self._addresses(found, target))
                return
            except StepFailed as exc:
                if index == last:
                    raise
                self._say(exc.step, f"{target.url}: {exc.reason}; trying the next", "note")

    async def _addresses(self, found: Discovered, target: Target) -> list[str]:
        try:
            return await self._discovery.addresses(found, target)
        except NoUsableAddress as exc:
            raise StepFailed(
                "tcp",
                exc.reason,
                "private networks that may be connected to belong in discovery.allow_networks",
            ) from None

    async def _check_native(self) -> None:
        policy = AddressPolicy(self._config.discovery.allow_networks, private=True)
        own = [parse_address(self._config.local.listen)]
        try:
            sock = await connect_native(self._domain, self._resolver, policy, own=own)
        except NativeFailed as exc:
            raise StepFailed(
                "native", exc.reason, "the domain is reached neither over wss nor natively"
            ) from None
        with sock:
            peer = Address(*sock.getpeername()[:2])
        self._say("native", f"{peer} accepts connections; streams are passed through untouched")


def read_dialback_secret(config: Config) -> bytes:
    """The secret that the gateway's workers verify with; empty when it cannot be read."""
    gateway = config.gateway
    path = Path(config.cluster.secret_file or Path(gateway.state_dir) / "dialback.secret")
    try:
        if not config.cluster.secret_file:
            return path.read_bytes().strip()
        if not path.is_file():
            return b""  # only a coordinator may create it
        return Authority(gateway.state_dir, gateway.domains, str(path)).dialback_secret
    except (OSError, CertificateProblem):
        return b""


def _urls(found: Discovered) -> str:
    return ", ".join(target.url for target in found.targets)


async def _load_nothing(_domain: str) -> bytes | None:
    return None


async def _save_nothing(_domain: str, _payload: bytes, _keep_seconds: int) -> None:
    return None


def _print_line(line: Line) -> None:
    mark = {"ok": "ok    ", "note": "note  ", "failed": "FAILED"}[line.status]
    if sys.stdout.isatty():
        mark = f"\x1b[{_COLOURS[line.status]}m{mark}\x1b[0m"
    print(f"{mark} {line.step:<14} {escape(line.text)}", flush=True)
    if line.hint:
        print(f"{'':6} {'':14} → {escape(line.hint)}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Check one domain; exit code 0 only when every step was passed."""
    parser = argparse.ArgumentParser(prog="fedgate check", description=__doc__)
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("domain", metavar="DOMAIN")
    options = parser.parse_args(arguments)
    lines: list[Line] = []
    report = lines.append if options.json else _print_line
    started = time.monotonic()

    async def run(config: Config, domain: str) -> bool:
        return await Check(config, domain, report).run()

    try:
        passed = uvloop.run(run(load(options.config), normalise_domain(options.domain)))
    except (ConfigError, InvalidDomain, CertificateProblem) as exc:
        print(f"fedgate: {exc}", file=sys.stderr)
        if isinstance(exc, InvalidDomain):
            return ExitCode.USAGE
        is_configuration = isinstance(exc, ConfigError)
        return ExitCode.CONFIGURATION if is_configuration else ExitCode.CERTIFICATE
    if options.json:
        steps = [asdict(line) for line in lines]
        seconds = round(time.monotonic() - started, 3)
        print(json.dumps({"domain": options.domain, "ok": passed, "s": seconds, "steps": steps}))
    return ExitCode.OK if passed else ExitCode.FAILURE


if __name__ == "__main__":
    sys.exit(main())
