"""Certificates in files for tests: self-signed, with the names and dates a test asks for."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from coordinator.config import Pair

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")


def srv_name(text: str) -> x509.OtherName:
    return x509.OtherName(SRV_NAME, bytes([0x16, len(text)]) + text.encode())


def xmpp_addr(text: str) -> x509.OtherName:
    return x509.OtherName(XMPP_ADDR, bytes([0x0C, len(text)]) + text.encode())


def certificate(
    *names: str | x509.GeneralName,
    key: ec.EllipticCurvePrivateKey,
    since: datetime.datetime = NOW - DAY,
    until: datetime.datetime = NOW + 90 * DAY,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    general = [x509.DNSName(name) if isinstance(name, str) else name for name in names]
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(since).not_valid_after(until)
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.sign(key, hashes.SHA256())


def write_pair(
    directory: Path,
    *names: str | x509.GeneralName,
    file: str = "a",
    since: datetime.datetime = NOW - DAY,
    until: datetime.datetime = NOW + 90 * DAY,
    password: bytes = b"",
) -> Pair:
    """Write `<file>.crt` and `<file>.key` and return the pair that names them."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption: KeySerializationEncryption = NoEncryption()
    if password:
        encryption = BestAvailableEncryption(password)
    made = certificate(*names, key=key, since=since, until=until)
    (directory / f"{file}.crt").write_bytes(made.public_bytes(Encoding.PEM))
    (directory / f"{file}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    )
    return Pair(certificate=str(directory / f"{file}.crt"), key=str(directory / f"{file}.key"))
