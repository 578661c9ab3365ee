"""The gateway's own certificates as files: which pairs exist, and what is wrong with them.

Used before a start and by `fedgate config check`; what peers show is verified in the workers.
"""

import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from coordinator.config import Config, Pair
from coordinator.exits import ExitCode

SOON = datetime.timedelta(days=14)
_SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
_XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `fedgate config check`: cause and next step. An error forbids the start."""

    cause: str
    next_step: str
    is_error: bool = True
    exit_code: ExitCode = ExitCode.CERTIFICATE

    def __str__(self) -> str:
        return f"{self.cause}; {self.next_step}"


class CertificateProblem(Exception):
    """A pair of files cannot be used; `finding` says why."""

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(f"{cause}; {next_step}")
        self.finding = Finding(cause, next_step)


def find_pairs(config: Config) -> list[Pair]:
    """Return the configured pairs, then those found in `certificates.directories`."""
    pairs = list(config.certificates.pairs)
    for name in config.certificates.directories:
        pairs.extend(pairs_below(Path(name)))
    return pairs


def pairs_below(directory: Path) -> Iterator[Pair]:
    """The pairs in a directory and in the directories inside it; none if it cannot be read.

    Known layouts: certbot's `fullchain*.pem` with `privkey*.pem`, Prosody's `<name>.crt` with
    `<name>.key`. Other files are passed over.
    """
    if _is_readable_directory(directory):
        inside = sorted(path for path in directory.iterdir() if _is_readable_directory(path))
        for folder in (directory, *inside):
            yield from _pairs_in(folder)


def check_certificates(config: Config, now: datetime.datetime) -> list[Finding]:
    """Check files, matching keys, dates and names of all pairs against the gateway's domains."""
    findings = [
        Finding(
            f"certificates.directories: {directory} is not a directory this user can read",
            "correct the path or its permissions",
        )
        for directory in config.certificates.directories
        if not _is_readable_directory(Path(directory))
    ]
    names: set[str] = set()
    for pair in find_pairs(config):
        try:
            certificate = load_pair(pair)
        except CertificateProblem as exc:
            findings.append(exc.finding)
            continue
        findings.extend(_check_dates(pair, certificate, now))
        names |= names_of(certificate)
    return findings + _check_cover(config, names, has_findings=bool(findings))


def load_pair(pair: Pair) -> x509.Certificate:
    """Return the leaf of a pair. Raises `CertificateProblem`: unreadable, not PEM, or no match."""
    text = _read(pair.certificate, "certificate")
    try:
        certificate = x509.load_pem_x509_certificates(text)[0]
    except ValueError as exc:
        raise CertificateProblem(
            f"{pair.certificate} holds no PEM certificate", "name the full chain file, leaf first"
        ) from exc
    text = _read(pair.key, "key")
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError as exc:
        raise CertificateProblem(
            f"{pair.key} is protected by a password", "store the key without one, mode 0600"
        ) from exc
    except ValueError as exc:
        raise CertificateProblem(
            f"{pair.key} holds no PEM private key", "name the file of the private key"
        ) from exc
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public != spki:
        raise CertificateProblem(
            f"{pair.key} is not the key of {pair.certificate}",
            "name the key that the certificate was issued for",
        )
    return certificate


def names_of(certificate: x509.Certificate) -> set[str]:
    """The domains a certificate names: dNSName, SRVName of XMPP s2s, XmppAddr (RFC 6120 §13.7)."""
    try:
        alternatives = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except x509.ExtensionNotFound:
        return set()
    names = {name.lower() for name in alternatives.get_values_for_type(x509.DNSName)}
    for other in alternatives.get_values_for_type(x509.OtherName):
        text = _string_inside(other.value).lower()
        if other.type_id == _XMPP_ADDR:
            names.add(text)
        elif other.type_id == _SRV_NAME and text.startswith("_xmpp-server."):
            names.add(text.partition(".")[2])
    return names


def covers(names: Iterable[str], domain: str) -> bool:
    """Whether a domain is among the names, or one label below a wildcard."""
    wildcard = "*." + domain.partition(".")[2]
    return any(name in (domain, wildcard) for name in names)


def _is_readable_directory(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.R_OK | os.X_OK)


def _pairs_in(folder: Path) -> Iterator[Pair]:
    for key in sorted([*folder.glob("*.key"), *folder.glob("privkey*.pem")]):
        if key.suffix == ".key":
            candidates = [key.with_suffix(suffix) for suffix in (".crt", ".pem", ".cert")]
        else:
            candidates = [key.with_name(key.name.replace("privkey", "fullchain"))]
        for certificate in candidates:
            if certificate.is_file():
                yield Pair(certificate=str(certificate), key=str(key))
                break


def _read(path: str, noun: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise CertificateProblem(
            f"cannot read the {noun} {path}: {exc.strerror}", "correct the path or its permissions"
        ) from exc


def _check_dates(
    pair: Pair, certificate: x509.Certificate, now: datetime.datetime
) -> Sequence[Finding]:
    until, since = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if until <= now:
        return [Finding(f"{pair.certificate} expired on {until:%Y-%m-%d %H:%M} UTC", "renew it")]
    if since > now:
        return [
            Finding(
                f"{pair.certificate} is not valid before {since:%Y-%m-%d %H:%M} UTC",
                "check the clock of this machine, or wait",
            )
        ]
    if until - now < SOON:
        cause = f"{pair.certificate} expires on {until:%Y-%m-%d %H:%M} UTC"
        return [Finding(cause, "see that its renewal works", is_error=False)]
    return []


def _check_cover(config: Config, names: set[str], *, has_findings: bool) -> list[Finding]:
    if not names and not has_findings and config.websocket.tls:
        return [
            Finding(
                "websocket.tls is on, but certificates names no certificate",
                "set certificates.pairs or certificates.directories",
            )
        ]
    # A host that is covered carries its domains by delegation (host-meta) and dialback.
    host = config.websocket.public_url.partition("//")[2].partition("/")[0].partition(":")[0]
    is_delegated = covers(names, host) or not config.websocket.tls
    return [
        Finding(
            f"no usable certificate covers {domain}"
            + (" (it will authenticate by dialback)" if is_delegated else ""),
            "obtain one that names it and add it to certificates.pairs",
            is_error=not is_delegated,
        )
        for domain in config.gateway.domains
        if not covers(names, domain)
    ]


def _string_inside(der: bytes) -> str:
    """The text of a DER UTF8String or IA5String; '' for anything else."""
    if len(der) < 2 or der[0] not in (0x0C, 0x16):
        return ""
    start, length = (2, der[1]) if der[1] < 0x80 else (3, der[2] if len(der) > 2 else 0)
    if der[1] > 0x81 or start + length != len(der):
        return ""
    return der[start:].decode("utf-8", "replace")
