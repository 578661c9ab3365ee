"""The private CA of the local legs, and the dialback secret. Its key never leaves the coordinator.

Files in the state directory: `ca.key` (0600), `ca.pem`, `ca-bundle.pem` (the system's
authorities plus ours, for servers whose option replaces the system's), `dialback.secret` (0600).
With `cluster.secret_file`, that one file (0600) holds key and certificate, and the dialback secret
is derived from the key.
"""

import datetime
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain
from coordinator.processes import keep_private, write_atomically

LEAF_LIFETIME = 24 * 3600.0
_CA_LIFETIME = datetime.timedelta(days=3650)
_SKEW = datetime.timedelta(minutes=5)
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


class AuthorityProblem(Exception):
    """The private CA cannot be used; one line with the cause and the next step."""


class LeafRefusal(Exception):
    """No certificate for this domain; the text says why."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate to speak as a remote domain to the local server; `not_after`: Unix time."""

    certificate_pem: bytes
    key_pem: bytes
    not_after: float


class Authority:
    """Issues leaves. Raises `AuthorityProblem` if its files cannot be read or written."""

    def __init__(
        self, state_dir: str | Path, own_domains: Collection[str] = (), secret_file: str = ""
    ) -> None:
        self._own_domains = frozenset(own_domains)
        directory = Path(state_dir)
        try:
            if secret_file:
                self._key, self.certificate = _read_or_create(Path(secret_file), Path(secret_file))
                self.dialback_secret = _derived_secret(self._key)
            else:
                self._key, self.certificate = _read_or_create(
                    directory / "ca.key", directory / "ca.pem"
                )
                self.dialback_secret = _read_or_create_secret(directory / "dialback.secret")
            self._publish(directory)
        except OSError as exc:
            raise AuthorityProblem(
                f"cannot use {exc.filename or directory}: {exc.strerror}; make gateway.state_dir "
                "and cluster.secret_file readable and writable for this user"
            ) from exc

    def issue(self, domain: str, now: datetime.datetime | None = None) -> Leaf:
        """A fresh key and certificate of at most 24 h for a remote domain. Raises `LeafRefusal`."""
        try:
            name = normalise_domain(domain)
        except InvalidDomain as exc:
            raise LeafRefusal(str(exc)) from exc
        if name in self._own_domains:
            raise LeafRefusal(f"{name} is a domain of the local server")
        start = (now or datetime.datetime.now(datetime.UTC)).replace(microsecond=0) - _SKEW
        end = start + datetime.timedelta(seconds=LEAF_LIFETIME)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_subject(name), self.certificate.subject, key, start, end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(_certificate_pem(certificate), _key_pem(key), end.timestamp())

    def _publish(self, directory: Path) -> None:
        """Write the public files, only when they changed: local servers watch them."""
        own = _certificate_pem(self.certificate)
        system = next((Path(p).read_bytes() for p in _SYSTEM_BUNDLES if Path(p).exists()), b"")
        for name, data in (("ca.pem", own), ("ca-bundle.pem", system.rstrip() + b"\n" + own)):
            path = directory / name
            if not path.exists() or path.read_bytes() != data:
                write_atomically(path, data, mode=0o644)


def authority_for(config: Config) -> Authority:
    """The authority that a configuration asks for. Raises `AuthorityProblem`."""
    gateway = config.gateway
    return Authority(gateway.state_dir, gateway.domains, config.cluster.secret_file)


def _read_or_create(
    key_path: Path, certificate_path: Path
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    if not key_path.exists():
        key, certificate = _new_authority()
        if key_path == certificate_path:
            write_atomically(key_path, _key_pem(key) + _certificate_pem(certificate))
        else:
            # The key last: a crash in between leaves no key, so both are made again.
            write_atomically(certificate_path, _certificate_pem(certificate), mode=0o644)
            write_atomically(key_path, _key_pem(key))
    keep_private(key_path)
    try:
        loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except (ValueError, TypeError) as exc:
        raise AuthorityProblem(
            f"{key_path} or {certificate_path} is damaged ({exc}); restore both, or remove both to "
            "get a new private CA and attach the local server again"
        ) from exc
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or (
        loaded.public_key() != certificate.public_key()
    ):
        raise AuthorityProblem(
            f"the key in {key_path} is not that of {certificate_path}; restore both, or remove both"
        )
    return loaded, certificate


def _new_authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"fedgate private CA {secrets.token_hex(4)}")
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(hours=1)
    certificate = (
        _builder(name, name, key, start, start + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(text: str) -> x509.Name:
    # X.520 allows 64 characters; the name that counts is the subjectAltName.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _derived_secret(key: ec.EllipticCurvePrivateKey) -> bytes:
    number = key.private_numbers().private_value.to_bytes(32, "big")
    derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"fedgate dialback secret").derive(number)
    return derived.hex().encode()


def _read_or_create_secret(path: Path) -> bytes:
    if not path.exists():
        write_atomically(path, secrets.token_hex(32).encode())
    keep_private(path)
    secret = path.read_bytes().strip()
    if len(secret) < 32:
        raise AuthorityProblem(
            f"{path} holds no secret of 32 characters; remove it to get a new one"
        )
    return secret
