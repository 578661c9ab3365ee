"""Certificates of peers: is the chain good, which names does it prove (RFC 6120 §13.7, RFC 9525).

The TLS layer accepts any certificate; here it is judged after the handshake, in both roles alike. A
certificate for servers (serverAuth) is good for clients too: public authorities issue no others.
"""

import ssl
import warnings
from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ObjectIdentifier
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain
from workers.gateway import rejection

SYSTEM = "system"
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
_XMPP_ADDR = ObjectIdentifier("1.3.6.1.5.5.7.8.5")
_SRV_NAME = ObjectIdentifier("1.3.6.1.5.5.7.8.7")
_SRV_PREFIX = "_xmpp-server."
_NO_PROOF: tuple[type[Exception], ...] = (VerificationError, *rejection.MALFORMED)
_UTF8_STRING = 0x0C
_IA5_STRING = 0x16


class CertificateRejected(Exception):
    """The peer's certificate proves nothing. `reason` is one clear line for log and operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TrustProblem(Exception):
    """A bundle of certificate authorities cannot be used; the text names cause and next step."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The certificate authorities of one bundle."""

    path: str
    authorities: tuple[x509.Certificate, ...]
    store: Store


@dataclass(frozen=True, slots=True)
class VerifiedNames:
    """What a verified certificate proves: normalised names, `srv` without its `_xmpp-server.`."""

    dns: frozenset[str]
    srv: frozenset[str]
    xmpp: frozenset[str]
    not_after: float

    def covers(self, domain: str, delegated_hosts: Collection[str] = ()) -> bool:
        """Does it prove the XMPP domain, or a host that the domain delegated itself to?

        `domain` and `delegated_hosts` are normalised; delegated hosts must have been learned over
        verified HTTPS or from configuration (XEP-0156 §2.2, XEP-0487 §2.2).
        """
        if domain in self.xmpp or domain in self.srv or _matches_dns(self.dns, domain):
            return True
        return any(_matches_dns(self.dns, host) for host in delegated_hosts)

    def __str__(self) -> str:
        names = sorted(self.dns) + [f"{_SRV_PREFIX}{n}" for n in sorted(self.srv)]
        names += [f"xmpp:{name}" for name in sorted(self.xmpp)]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def load_trust(source: str) -> Trust:
    """Read the authorities of a PEM bundle, or of the system when `source` is "system".

    Raises `TrustProblem`.
    """
    path = _system_bundle() if source in ("", SYSTEM) else source
    try:
        pem = Path(path).read_bytes()
    except OSError as exc:
        raise TrustProblem(
            f"cannot read the trust bundle {path}: {exc.strerror}; correct certificates.trust"
        ) from exc
    authorities = _load_authorities(pem)
    if not authorities:
        raise TrustProblem(f"no certificate in the trust bundle {path}; it must be PEM")
    return Trust(path, authorities, Store(list(authorities)))


def _load_authorities(pem: bytes) -> tuple[x509.Certificate, ...]:
    marker = b"-----END CERTIFICATE-----"
    found = []
    with warnings.catch_warnings():
        # System bundles carry old roots with odd serial numbers: nothing an operator can mend.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for block in pem.split(marker)[:-1]:
            try:
                found.append(x509.load_pem_x509_certificate(block + marker))
            except ValueError:
                continue  # what the parser refuses is never trusted
    return tuple(found)


def _system_bundle() -> str:
    default = ssl.get_default_verify_paths().cafile
    for path in (default, *_SYSTEM_BUNDLES):
        if path and Path(path).is_file():
            return path
    raise TrustProblem(
        "the system has no bundle of certificate authorities; "
        "install ca-certificates or set certificates.trust"
    )


class TrustSources:
    """The bundles that configuration names, each read once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loaded: dict[str, Trust] = {}

    def for_domain(self, domain: str) -> Trust:
        """The authorities that certificates of a remote domain must come from.

        Raises `TrustProblem`; ask once at start for every domain under `[remote]` and for one that
        is not there, so that operators learn of it early.
        """
        return self._load(self._config.trust_for(domain))

    def for_own_domains(self) -> Trust:
        """The authorities that the local server's own certificate may come from.

        Raises `TrustProblem`.
        """
        return self._load(self._config.certificates.trust)

    def check(self) -> None:
        """Read every bundle that is named. Raises `TrustProblem`."""
        self.for_own_domains()
        for domain in (*self._config.remote, "unknown.example"):
            self.for_domain(domain)

    def _load(self, source: str) -> Trust:
        trust = self._loaded.get(source)
        if trust is None:
            trust = self._loaded[source] = load_trust(source)
        return trust

    def reload(self) -> None:
        """Read every bundle again when it is needed next."""
        self._loaded.clear()


def verify_chain(chain: Sequence[x509.Certificate], trust: Trust, now: float) -> VerifiedNames:
    """Verify a peer's chain (leaf first, as received) against `trust` at POSIX time `now`.

    The names are not compared with anything yet: ask `covers` next, or use `verify_peer`.
    Revocation is not checked. Raises `CertificateRejected`.
    """
    if not chain:
        raise CertificateRejected("no certificate was presented")
    at = datetime.fromtimestamp(now, UTC)
    try:
        builder = PolicyBuilder().store(trust.store).time(at.replace(tzinfo=None))
        builder = builder.extension_policies(ca_policy=_CA_POLICY, ee_policy=_EE_POLICY)
        if rejection.is_costly(chain):
            raise CertificateRejected("the chain has too many names and name constraints")
        # There is no server verifier that reads SRVName and XmppAddr; usage is checked by policy.
        verifier = builder.build_client_verifier()
        verified = verifier.verify(chain[0], list(chain[1 : rejection.MAX_CHAIN]))
        names = _names(verified.subjects or (), verified.chain)
        weakness = rejection.weak_key(chain[0])
    except _NO_PROOF as exc:
        raise CertificateRejected(rejection.explain(chain, trust.authorities, at, exc)) from exc
    if weakness:
        raise CertificateRejected(f"the certificate {weakness}")
    if not (names.dns or names.srv or names.xmpp):
        raise CertificateRejected(f"the certificate names no domain{_shown(verified.subjects)}")
    return names


def verify_peer(
    chain: Sequence[x509.Certificate],
    trust: Trust,
    now: float,
    *,
    domain: str,
    delegated_hosts: Collection[str] = (),
) -> VerifiedNames:
    """Verify the chain and that it proves `domain` or a delegated host.

    Raises `CertificateRejected`.
    """
    names = verify_chain(chain, trust, now)
    if not names.covers(domain, delegated_hosts):
        wanted = " or ".join([domain, *sorted(delegated_hosts)])
        raise CertificateRejected(f"the certificate is for {names}, not for {wanted}")
    return names


def spki_sha256(certificate: x509.Certificate) -> str:
    """The base64 SHA-256 of the public key (RFC 7469 pin, XEP-0487 `public-key-pins-sha-256`)."""
    key = certificate.public_key()
    return b64encode(
        sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    ).decode()


def _check_usage(
    _policy: Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None
) -> None:
    if not rejection.is_for_servers(usage):
        raise ValueError("wrong usage")


def _check_issuers_usage(
    _policy: Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None
) -> None:
    if not rejection.issues_for_servers(usage):
        raise ValueError("wrong usage of an authority")


# Key identifiers help to find issuers and prove nothing; private authorities often leave them out.
# Public authorities issue for servers only, by intermediates that are for nothing else, too.
_CA_POLICY = (
    ExtensionPolicy.webpki_defaults_ca()
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _check_issuers_usage)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
    .may_be_present(x509.SubjectKeyIdentifier, Criticality.AGNOSTIC, None)
)
_EE_POLICY = (
    ExtensionPolicy.webpki_defaults_ee()
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _check_usage)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
)


def _names(
    subjects: Sequence[x509.GeneralName], chain: Sequence[x509.Certificate]
) -> VerifiedNames:
    issuers = chain[1:]
    dns, srv, xmpp = set(), set(), set()
    for subject in subjects:
        if isinstance(subject, x509.DNSName):
            dns.add(_normalised(subject.value, wildcard=True))
        elif isinstance(subject, x509.OtherName):
            text = _der_text(subject.value)
            if subject.type_id == _XMPP_ADDR:
                xmpp.add(_permitted(_normalised(text), issuers))
            elif subject.type_id == _SRV_NAME and text.startswith(_SRV_PREFIX):
                srv.add(_permitted(_normalised(text.removeprefix(_SRV_PREFIX)), issuers))
    return VerifiedNames(
        frozenset(dns - {""}),
        frozenset(srv - {""}),
        frozenset(xmpp - {""}),
        min(each.not_valid_after_utc for each in chain).timestamp(),
    )


def _permitted(name: str, issuers: Sequence[x509.Certificate]) -> str:
    """The name, or "" if an issuer may not speak of it.

    The verifier holds authorities to their name constraints in dNSNames only: one that is bound to
    its own domains could else prove any other by SRVName or XmppAddr.
    """
    return name if all(rejection.may_name(issuer, name) for issuer in issuers) else ""


def _shown(subjects: Sequence[x509.GeneralName] | None) -> str:
    texts = [
        _der_text(subject.value) if isinstance(subject, x509.OtherName) else str(subject.value)
        for subject in subjects or ()
    ]
    return f", only {rejection.printable(', '.join(texts))}" if texts else ""


def _normalised(text: str, *, wildcard: bool = False) -> str:
    """The normalised name, or "" for what is none (a bare JID with @, a NUL, an inner wildcard)."""
    prefix = "*." if wildcard and text.startswith("*.") else ""
    try:
        name = normalise_domain(text.removeprefix(prefix))
    except InvalidDomain:
        return ""
    if prefix and "." not in name:
        return ""  # *.org and the like prove nothing
    return prefix + name


def _der_text(der: bytes) -> str:
    """The text of a DER UTF8String or IA5String; "" for anything else (OtherName holds raw DER)."""
    if len(der) < 2 or der[0] not in (_UTF8_STRING, _IA5_STRING):
        return ""
    length, start = der[1], 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 2:
            return ""
        length, start = int.from_bytes(der[2 : 2 + size]), 2 + size
    if start + length != len(der):
        return ""
    try:
        return der[start:].decode("utf-8" if der[0] == _UTF8_STRING else "ascii")
    except UnicodeDecodeError:
        return ""


def _matches_dns(names: frozenset[str], domain: str) -> bool:
    """Does a dNSName match: equal, or a wildcard for the left-most label only (RFC 9525 §6.3)."""
    return domain in names or f"*.{domain.partition('.')[2]}" in names
