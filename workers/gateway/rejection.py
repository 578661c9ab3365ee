"""Says in one clear line why a certificate chain was rejected.

Nothing here accepts anything: the verifier has said no, and its own words ("candidates exhausted")
are of no use to an operator. The checks run from the leaf upwards; the first cause found is told.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_MIN_RSA_BITS = 2048
# Every pair of certificates may cost a signature check, and peers choose how many they send.
_MAX_EXPLAINED = 9
_T = TypeVar("_T", bound=x509.ExtensionType)


def explain(
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    at: datetime,
    error: Exception,
) -> str:
    """Why `chain` (leaf first) does not verify at the time `at`; `error` is the verifier's word."""
    chain = chain[:_MAX_EXPLAINED]
    try:
        return (
            _leaf_problem(chain[0], at)
            or _chain_problem(chain, authorities, at)
            or f"the certificate does not verify: {_printable(str(error))}"
        )
    except (ValueError, UnsupportedAlgorithm) as exc:
        # Certificates are parsed piece by piece: a bad one may break when an extension is read.
        return f"the certificate is malformed: {_printable(str(exc))}"


def is_for_servers(usage: x509.ExtendedKeyUsage | None) -> bool:
    """Whether a server may be known by it: serverAuth, or no word about usage.

    Also for clients, as servers are when they call: public authorities issue clientAuth no more.
    """
    return usage is None or ExtendedKeyUsageOID.SERVER_AUTH in usage


def has_weak_key(certificate: x509.Certificate) -> bool:
    """Whether its RSA key is too short to prove anything."""
    key = certificate.public_key()
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS


def _leaf_problem(leaf: x509.Certificate, at: datetime) -> str:
    problem = _time_problem(leaf, at)
    if problem:
        return f"the certificate {problem}"
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if not is_for_servers(usage):
        return "the certificate has the wrong usage: extended key usage without serverAuth"
    if _extension(leaf, x509.SubjectAlternativeName) is None:
        return "the certificate has no subjectAltName (a common name alone proves nothing)"
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca and not _is_self_issued(leaf):
        return "the certificate is one of an authority, not of a server"
    return ""


def _chain_problem(
    chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], at: datetime
) -> str:
    current, above = chain[0], list(chain[1:])
    for depth in range(len(chain) + 1):
        issuer = _find_issuer(current, authorities)
        if issuer is not None:
            problem = _time_problem(issuer, at)
            return f"the trusted authority {_name(issuer.subject)} {problem}" if problem else ""
        if _is_self_issued(current):
            if depth == 0:
                return "the certificate is self-signed and not trusted"
            return f"unknown authority: the chain ends at {_name(current.subject)}, not trusted"
        issuer = _find_issuer(current, above)
        if issuer is None:
            break
        above.remove(issuer)
        problem = _time_problem(issuer, at)
        if problem:
            return f"the intermediate certificate {_name(issuer.subject)} {problem}"
        current = issuer
    if any(candidate.subject == current.issuer for candidate in (*authorities, *above)):
        return f"the signature is not by {_name(current.issuer)}, though the certificate says so"
    return (
        f"unknown authority or missing intermediate: {_name(current.issuer)} "
        "is not trusted, and its certificate was not sent"
    )


def _time_problem(certificate: x509.Certificate, at: datetime) -> str:
    if at > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if at < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def _find_issuer(
    certificate: x509.Certificate, candidates: Iterable[x509.Certificate]
) -> x509.Certificate | None:
    for candidate in candidates:
        if candidate == certificate or _is_issued_by(certificate, candidate):
            return candidate
    return None


def _is_self_issued(certificate: x509.Certificate) -> bool:
    return _is_issued_by(certificate, certificate)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _printable(str(common[0].value) if common else name.rfc4514_string())


def _printable(text: str) -> str:
    """Text of strangers, fit for a log line."""
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
