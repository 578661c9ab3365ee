"""Certificates with their keys: read from files, matched to domains by the names inside."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coordinator.certificates import names_of

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


class CertificateProblem(Exception):
    """A certificate or key cannot be used: one line, naming the file and the cause."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyPair:
    """A certificate chain, leaf first, with the private key of the leaf. Compared by identity."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    # The domains the leaf is for: dNSName (also wildcards), SRVName, xmppAddr.
    names: frozenset[str]

    @property
    def not_after(self) -> datetime:
        """When the leaf expires (UTC)."""
        return self.chain[0].not_valid_after_utc


def parse_pair(certificate_pem: bytes, key_pem: bytes, origin: str = "certificate") -> KeyPair:
    """Read a pair from PEM text. Raises `CertificateProblem` naming `origin`."""
    try:
        chain = tuple(x509.load_pem_x509_certificates(certificate_pem))
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as exc:
        raise CertificateProblem(f"{origin}: {exc}") from exc
    if not isinstance(key, PrivateKey):
        raise CertificateProblem(f"{origin}: keys of this type cannot be used for TLS")
    if chain[0].public_key() != key.public_key():
        raise CertificateProblem(f"{origin}: the key does not belong to the certificate")
    return KeyPair(chain, key, frozenset(names_of(chain[0])))


def load_pair(certificate: Path, key: Path) -> KeyPair:
    """Read a pair from files. Raises `CertificateProblem`."""
    try:
        certificate_pem, key_pem = certificate.read_bytes(), key.read_bytes()
    except OSError as exc:
        raise CertificateProblem(f"{exc.filename}: {exc.strerror}") from exc
    return parse_pair(certificate_pem, key_pem, f"{certificate} with {key}")


def best_pair(pairs: Iterable[KeyPair], domain: str) -> KeyPair | None:
    """Choose by name, then by validity: an exact name before a wildcard, the latest expiry."""
    wildcard = "*." + domain.partition(".")[2]
    now = datetime.now(UTC)
    best: tuple[bool, bool, datetime] | None = None
    chosen = None
    for pair in pairs:
        names = pair.names
        if domain not in names and wildcard not in names:
            continue
        rank = (pair.not_after > now, domain in names, pair.not_after)
        if best is None or rank > best:
            best, chosen = rank, pair
    return chosen
