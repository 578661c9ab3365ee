"""What `fedgate config check` looks at beyond the file itself: certificates, paths, limits."""

import datetime
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from coordinator.address import is_loopback, is_unix_path, parse_address
from coordinator.certificates import Finding, check_certificates
from coordinator.config import Config
from coordinator.exits import ExitCode
from coordinator.redis_url import why_insecure

FEW_FILES = 4096
S2S_PORT = 5269


def check(config: Config, now: datetime.datetime | None = None) -> list[Finding]:
    """Return every finding, errors first. Reads files only; nothing is bound or connected."""
    moment = now or datetime.datetime.now(datetime.UTC)
    findings = check_certificates(config, moment)
    findings += [*_check_trust(config), *_check_state_dir(config), *_check_surface(config)]
    return sorted(findings, key=lambda finding: not finding.is_error)


def exit_code(findings: list[Finding]) -> ExitCode:
    """The code of the first error; certificates have one of their own."""
    return next((finding.exit_code for finding in findings if finding.is_error), ExitCode.OK)


def _finding(cause: str, next_step: str, *, is_error: bool = True) -> Finding:
    return Finding(cause, next_step, is_error, ExitCode.CONFIGURATION)


def _check_trust(config: Config) -> Iterator[Finding]:
    sources = {"certificates.trust": config.certificates.trust}
    sources |= {f'remote."{d}".trust': remote.trust for d, remote in config.remote.items()}
    for name, path in sources.items():
        if path in ("", "system"):
            continue
        try:
            x509.load_pem_x509_certificates(Path(path).read_bytes())
        except OSError as exc:
            yield _finding(f"{name}: cannot read {path}: {exc.strerror}", "correct the path")
        except ValueError:
            yield _finding(f"{name}: {path} holds no PEM certificate", "name a PEM bundle")


def _check_state_dir(config: Config) -> Iterator[Finding]:
    path = Path(config.gateway.state_dir)
    present = path
    while not present.exists() and present != present.parent:
        present = present.parent
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        yield _finding(
            f"gateway.state_dir: this user cannot write in {present}",
            f"create {path} for the user that runs fedgate",
        )


def _check_surface(config: Config) -> Iterator[Finding]:
    if not config.websocket.tls and not config.websocket.trusted_proxies:
        yield _finding(
            "websocket.tls is false and websocket.trusted_proxies is empty",
            "name the networks of your HTTPS proxy: nobody else may connect without TLS",
        )
    if config.websocket.client_certificate_header and not config.websocket.trusted_proxies:
        yield _finding(
            "websocket.client_certificate_header counts only from websocket.trusted_proxies",
            "name the networks of your HTTPS proxy",
            is_error=False,
        )
    if config.local.authenticate == "none":
        yield _finding(
            "local.authenticate is none: any local process can pose as your server",
            "use it only in tests and closed networks",
            is_error=False,
        )
    yield from _check_exposure(config)
    if config.local.attach == "component":
        yield from _check_components(config)
    yield from _check_ports(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if max(soft, hard) < FEW_FILES:
        yield _finding(
            f"this user may open only {hard} files, one is needed per session",
            "raise the limit, for example LimitNOFILE=65536 in the systemd unit",
            is_error=False,
        )


def _check_exposure(config: Config) -> Iterator[Finding]:
    listen = config.admin.listen
    if not is_unix_path(listen) and not is_loopback(parse_address(listen).host):
        yield _finding(
            f"admin.listen is {listen}: whoever reaches it may read who talks with whom",
            "let a firewall keep others than your own machines out",
            is_error=False,
        )
    if reason := why_insecure(config.redis.url):
        yield _finding(
            f"redis.allow_insecure: {reason}",
            "let nobody else into the network between",
            is_error=False,
        )


def _check_components(config: Config) -> Iterator[Finding]:
    servers = {parse_address(config.local.server_for(d)) for d in config.gateway.domains}
    for address in sorted(server.reachable() for server in servers):
        if address.port == S2S_PORT:
            yield _finding(
                f"local.server is {address}, the usual port for s2s, but attach is component",
                "name the component port, by default 5347",
                is_error=False,
            )
        if not is_loopback(address.host):
            yield _finding(
                f"local.server is {address}: components have no TLS, all is sent in the clear",
                "run fedgate on the machine of the local server",
                is_error=False,
            )


def _check_ports(config: Config) -> Iterator[Finding]:
    """Two options on one address would only be seen when the second one is bound."""
    taken: dict[str, str] = {}
    listens = [(text, "websocket.listen") for text in config.websocket.listen]
    if config.local.attach == "s2s":
        listens.append((config.local.listen, "local.listen"))
    if config.local.dns:
        listens.append((config.local.dns, "local.dns"))
    if "/" not in config.admin.listen:
        listens.append((config.admin.listen, "admin.listen"))
    for text, name in listens:
        if parse_address(text).port and text in taken:
            yield _finding(f"{name} and {taken[text]} are both {text}", "change one of the ports")
        taken[text] = name
