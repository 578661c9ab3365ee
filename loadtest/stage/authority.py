"""A private certificate authority for the stage, and the leaves its actors show."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from workers.gateway import certificates

# RFC 4985 (SRVName) and RFC 6120 §13.7.1.4 (XmppAddr) as otherName types.
_SRV_NAME = ObjectIdentifier("1.3.6.1.5.5.7.8.7")
_XMPP_ADDR = ObjectIdentifier("1.3.6.1.5.5.7.8.5")
_LIFETIME = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM files of a leaf and of its private key."""

    certificate: Path
    key: Path


class TestAuthority:
    """A certificate authority that exists for one stage. `bundle` is the PEM file to trust.

    With `keep` its key stays in the directory, and the next one made there is the same.
    """

    # pytest would otherwise try to collect it by its name.
    __test__ = False

    def __init__(
        self, directory: Path, common_name: str = "Stage CA", *, keep: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.bundle = directory / "ca.pem"
        key_file = directory / "ca.key"
        if keep and key_file.exists() and _is_valid(self.bundle):
            self._key = _load_key(key_file)
            self._certificate = x509.load_pem_x509_certificate(self.bundle.read_bytes())
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._certificate = _self_signed(self._key, common_name)
            self.bundle.write_bytes(_pem(self._certificate))
            self.bundle.chmod(0o644)
            if keep:  # the key last: without it both are made again
                _write_key(key_file, self._key)
        self._issued = 0

    def issue(
        self,
        *dns_names: str,
        server_auth_only: bool = True,
        srv_names: Sequence[str] = (),
        xmpp_addresses: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        not_after: datetime | None = None,
        self_signed: bool = False,
    ) -> KeyPair:
        """Write a leaf for the names; by default with serverAuth alone, as public CAs do."""
        leaf, key = self._sign(
            _general_names(dns_names, srv_names, xmpp_addresses, ip_addresses),
            dns_names[0] if dns_names else "stage leaf",
            server_auth_only=server_auth_only,
            not_after=not_after,
            self_signed=self_signed,
        )
        return self._write(leaf, key)

    def mint(self, *dns_names: str) -> certificates.KeyPair:
        """A leaf with serverAuth alone that stays in memory: for thousands of them."""
        leaf, key = self._sign(_general_names(dns_names, (), (), ()), dns_names[0])
        return certificates.KeyPair((leaf, self._certificate), key, frozenset(dns_names))

    def _sign(
        self,
        names: list[x509.GeneralName],
        common_name: str,
        *,
        server_auth_only: bool = True,
        not_after: datetime | None = None,
        self_signed: bool = False,
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        if not server_auth_only:
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        subject = _name(common_name)
        end = not_after or datetime.now(UTC) + _LIFETIME
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - 2 * _LIFETIME)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_subject_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    (key if self_signed else self._key).public_key()
                ),
                critical=False,
            )
        )
        return builder.sign(key if self_signed else self._key, hashes.SHA256()), key

    def _write(self, leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
        self._issued += 1
        pair = KeyPair(
            self.directory / f"leaf-{self._issued}.pem", self.directory / f"leaf-{self._issued}.key"
        )
        pair.certificate.write_bytes(_pem(leaf) + _pem(self._certificate))
        _write_key(pair.key, key)
        return pair


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is no key of ours")
    return key


def _is_valid(bundle: Path) -> bool:
    certificate = x509.load_pem_x509_certificate(bundle.read_bytes())
    return certificate.not_valid_after_utc > datetime.now(UTC) + _LIFETIME


def _self_signed(key: ec.EllipticCurvePrivateKey, common_name: str) -> x509.Certificate:
    now = datetime.now(UTC)
    name = _name(common_name)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * _LIFETIME)
        .not_valid_after(now + 3 * _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_subject_key(key), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_names(
    dns: Sequence[str], srv: Sequence[str], xmpp: Sequence[str], ip: Sequence[str]
) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip]
    names += [x509.OtherName(_SRV_NAME, _der_string(0x16, name)) for name in srv]
    names += [x509.OtherName(_XMPP_ADDR, _der_string(0x0C, address)) for address in xmpp]
    return names


def _der_string(tag: int, text: str) -> bytes:
    """A short-form DER string: 0x16 IA5String, 0x0C UTF8String."""
    content = text.encode()
    if len(content) > 127:
        raise ValueError(f"{text!r} is too long for a short-form DER string")
    return bytes((tag, len(content))) + content


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject_key(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
