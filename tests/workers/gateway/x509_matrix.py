"""Certificates of every good and bad kind, made with cryptography for tests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from cryptography.x509.verification import Store

from workers.gateway.identity import Trust

NOW = datetime.now(UTC).replace(microsecond=0)
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def dns(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def srv(name: str) -> x509.GeneralName:
    return x509.OtherName(ObjectIdentifier("1.3.6.1.5.5.7.8.7"), _der(0x16, name))


def xmpp_addr(name: str) -> x509.GeneralName:
    return x509.OtherName(ObjectIdentifier("1.3.6.1.5.5.7.8.5"), _der(0x0C, name))


def _der(tag: int, text: str) -> bytes:
    data = text.encode()
    length = bytes([len(data)]) if len(data) < 128 else bytes([0x81, len(data)])
    return bytes([tag]) + length + data


class Authority:
    """A certificate authority; `parent` makes it an intermediate one."""

    def __init__(
        self,
        name: str = "Test CA",
        parent: "Authority | None" = None,
        *,
        start: datetime = NOW - timedelta(days=365),
        end: datetime = NOW + timedelta(days=365),
        key_identifiers: bool = True,
        key: Key | None = None,
        path_length: int | None = None,
        is_authority: bool = True,
        signs: bool = True,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.parent = parent
        self.key_identifiers = key_identifiers
        issuer = parent or self
        builder = _builder(self.name, issuer.name, self.key, start, end).add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=path_length), critical=True
        )
        builder = builder.add_extension(_key_usage(is_authority=signs), critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        if key_identifiers:
            builder = builder.add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            ).add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
                critical=False,
            )
        self.certificate = builder.sign(issuer.key, hashes.SHA256())

    @property
    def trust(self) -> Trust:
        return Trust("test-ca.pem", (self.certificate,), Store([self.certificate]))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        names: list[x509.GeneralName] | None,
        *,
        usage: list[ObjectIdentifier] | None = None,
        start: datetime = NOW - timedelta(days=30),
        end: datetime = NOW + timedelta(days=30),
        common_name: str = "leaf",
        key: Key | None = None,
        is_authority: bool = False,
        critical: Sequence[x509.ExtensionType] = (),
    ) -> "Leaf":
        """A leaf with serverAuth only, unless `usage` says otherwise ([]: no EKU at all)."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(subject, self.name, key, start, end).add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=None), critical=True
        )
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension in critical:
            builder = builder.add_extension(extension, critical=True)
        usage = [SERVER] if usage is None else usage
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if self.key_identifiers:
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        chain = [builder.sign(self.key, hashes.SHA256())]
        above: Authority | None = self
        while above is not None and above.parent is not None:
            chain.append(above.certificate)
            above = above.parent
        return Leaf(chain, key)


class Leaf:
    def __init__(self, chain: list[x509.Certificate], key: Key) -> None:
        self.chain = chain
        self.key = key

    @property
    def pem(self) -> bytes:
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + b"".join(c.public_bytes(Encoding.PEM) for c in self.chain)


def self_signed(
    name: str,
    *,
    start: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=1),
    key: Key | None = None,
) -> Leaf:
    """A leaf that nobody but itself has signed."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key, start, end)
    builder = builder.add_extension(x509.SubjectAlternativeName(dns(name)), critical=False)
    return Leaf([builder.sign(key, hashes.SHA256())], key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
