"""Says in one clear line why a certificate chain was rejected.

Nothing here accepts anything: the verifier has said no, and its own words ("candidates exhausted")
are of no use to an operator. The checks run from the leaf upwards; the first cause found is told.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_MIN_RSA_BITS = 2048
_MIN_ELLIPTIC_BITS = 224
# Every pair of certificates may cost a signature check, and peers choose how many they send.
MAX_CHAIN = 8
# Every name of a leaf is compared with every subtree of its issuers' name constraints, and both may
# fill the 100 kB that TLS takes: nine million comparisons are a second, and nobody needs so many.
MAX_COMPARISONS = 16384
_VERIFIERS_NOISE = re.compile(
    r"^validation failed: (candidates exhausted: )?| \(encountered processing .*", re.DOTALL
)
# Certificates are parsed piece by piece: one may be loaded and break when an extension is read.
MALFORMED: tuple[type[Exception], ...] = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_T = TypeVar("_T", bound=x509.ExtensionType)


def explain(
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    at: datetime,
    error: Exception,
) -> str:
    """Why `chain` (leaf first) does not verify at the time `at`; `error` is the verifier's word."""
    try:
        return (
            _leaf_problem(chain[0], at)
            or _chain_problem(chain, authorities, at)
            or "the certificate does not verify: " + printable(_VERIFIERS_NOISE.sub("", str(error)))
        )
    except MALFORMED as exc:
        return f"the certificate is malformed: {printable(str(exc))}"


def is_for_servers(usage: x509.ExtendedKeyUsage | None) -> bool:
    """Whether a server may be known by it: serverAuth, or no word about usage.

    Also for clients, as servers are when they call: public authorities issue clientAuth no more.
    """
    return usage is None or ExtendedKeyUsageOID.SERVER_AUTH in usage


def issues_for_servers(usage: x509.ExtendedKeyUsage | None) -> bool:
    """Whether an authority's usage lets it issue what is for servers (RFC 5280 §4.2.1.12)."""
    return is_for_servers(usage) or (
        usage is not None and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage
    )


def is_costly(chain: Sequence[x509.Certificate]) -> bool:
    """Whether a chain, leaf first, is made to keep its reader busy.

    Raises one of `MALFORMED`.
    """
    names = _extension(chain[0], x509.SubjectAlternativeName)
    constraints = [_extension(issuer, x509.NameConstraints) for issuer in chain[1:MAX_CHAIN]]
    subtrees = sum(
        len(each.permitted_subtrees or ()) + len(each.excluded_subtrees or ())
        for each in constraints
        if each is not None
    )
    return names is not None and len(list(names)) * subtrees > MAX_COMPARISONS


def usage_text(usage: x509.ExtendedKeyUsage | None) -> str:
    """The purposes of an extended key usage in words."""
    if usage is None:
        return "not restricted"
    names = {oid.dotted_string if oid._name == "Unknown OID" else oid._name for oid in usage}
    return ", ".join(sorted(names))


def weak_key(certificate: x509.Certificate) -> str:
    """Why its key is too weak to prove anything, "" if it is not."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return f"has an RSA key of less than {_MIN_RSA_BITS} bits"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _MIN_ELLIPTIC_BITS:
        return f"has an elliptic key of less than {_MIN_ELLIPTIC_BITS} bits"
    return ""


def time_problem(certificate: x509.Certificate, at: datetime) -> str:
    """Why it is not valid at that time, "" if it is."""
    if at > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if at < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def may_name(authority: x509.Certificate, domain: str) -> bool:
    """Whether the name constraints of an authority let it speak of a DNS name (RFC 5280 §4.2.1.10).

    `domain` may begin with a wildcard. Raises ValueError for a malformed extension.
    """
    constraints = _extension(authority, x509.NameConstraints)
    if constraints is None:
        return True
    excluded = _dns_trees(constraints.excluded_subtrees)
    permitted = _dns_trees(constraints.permitted_subtrees)
    if any(_is_below(domain, tree) for tree in excluded):
        return False
    return not permitted or any(_is_below(domain, tree) for tree in permitted)


def _dns_trees(subtrees: Iterable[x509.GeneralName] | None) -> list[str]:
    return [tree.value for tree in subtrees or () if isinstance(tree, x509.DNSName)]


def _is_below(domain: str, tree: str) -> bool:
    tree = tree.lower().removeprefix(".")
    name = domain.lower().removeprefix("*.")
    return not tree or name == tree or name.endswith(f".{tree}")


def _leaf_problem(leaf: x509.Certificate, at: datetime) -> str:
    problem = time_problem(leaf, at) or _critical_problem(leaf)
    if problem:
        return f"the certificate {problem}"
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if not is_for_servers(usage):
        return f"the certificate is for {usage_text(usage)}, not for serverAuth"
    if _is_authority(leaf) and not _is_self_issued(leaf):
        return "the certificate is one of an authority, not of a server"
    if _extension(leaf, x509.SubjectAlternativeName) is None:
        return "the certificate has no subjectAltName (a common name alone proves nothing)"
    return ""


def _chain_problem(
    chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], at: datetime
) -> str:
    path, above = [chain[0]], list(chain[1:MAX_CHAIN])
    while True:
        current = path[-1]
        issuer = _find_issuer(current, authorities)
        if issuer is not None:
            return _issuer_problem("the trusted authority", issuer, path, at)
        if _is_self_issued(current):
            if len(path) == 1:
                return "the certificate is self-signed and not trusted"
            return f"unknown authority: the chain ends at {_name(current.subject)}, not trusted"
        issuer = _find_issuer(current, above)
        if issuer is None:
            break
        above.remove(issuer)
        problem = _issuer_problem("the intermediate certificate", issuer, path, at)
        if problem:
            return problem
        path.append(issuer)
    if len(chain) > MAX_CHAIN:
        return f"the chain has more than {MAX_CHAIN} certificates"
    if any(candidate.subject == current.issuer for candidate in (*authorities, *above)):
        return f"the signature is not by {_name(current.issuer)}, though the certificate says so"
    return (
        f"unknown authority or missing intermediate: {_name(current.issuer)} "
        "is not trusted, and its certificate was not sent"
    )


def _issuer_problem(
    what: str, issuer: x509.Certificate, path: Sequence[x509.Certificate], at: datetime
) -> str:
    """Why `issuer` may not have issued the `path` below it (leaf first), "" if it may."""
    if issuer == path[-1]:
        return ""  # the leaf itself is trusted
    name = f"{what} {_name(issuer.subject)}"
    problem = time_problem(issuer, at) or _critical_problem(issuer) or weak_key(issuer)
    if problem:
        return f"{name} {problem}"
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return f"{name} is not one of an authority"
    usage = _extension(issuer, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        return f"{name} may not sign certificates"
    issues_for = _extension(issuer, x509.ExtendedKeyUsage)
    if not issues_for_servers(issues_for):
        return f"{name} issues for {usage_text(issues_for)}, not for serverAuth"
    if constraints.path_length is not None and constraints.path_length < len(path) - 1:
        return f"{name} permits no more than {constraints.path_length} authorities below it"
    names = _extension(path[0], x509.SubjectAlternativeName)
    for domain in names.get_values_for_type(x509.DNSName) if names else ():
        if not may_name(issuer, domain):
            return f"{name} may not issue for {printable(domain)} (name constraints)"
    return ""


def _is_authority(leaf: x509.Certificate) -> bool:
    constraints = _extension(leaf, x509.BasicConstraints)
    usage = _extension(leaf, x509.KeyUsage)
    return (constraints is not None and constraints.ca) or (
        usage is not None and usage.key_cert_sign
    )


def _critical_problem(certificate: x509.Certificate) -> str:
    for extension in certificate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            return f"has a critical extension that nobody knows: {extension.oid.dotted_string}"
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
    return printable(str(common[0].value) if common else name.rfc4514_string())


def printable(text: str) -> str:
    """Text of strangers, fit for a log line."""
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
