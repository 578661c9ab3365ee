"""Leaves of the stage's authority are what the scenes say they are."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from loadtest.stage.authority import KeyPair, TestAuthority


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path)


def load(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


def test_a_leaf_is_for_servers_only_unless_asked(authority: TestAuthority) -> None:
    def usages(pair: KeyPair) -> set[x509.ObjectIdentifier]:
        return set(load(pair).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    assert usages(authority.issue("a.example")) == {server}
    assert usages(authority.issue("a.example", server_auth_only=False)) == {server, client}


def test_a_leaf_and_its_key_load_as_a_pair(authority: TestAuthority) -> None:
    pair = authority.issue("a.example", "*.a.example", srv_names=["_xmpp-server.a.example"])
    context = ssl.create_default_context(cafile=str(authority.bundle))
    context.load_cert_chain(pair.certificate, pair.key)


def test_an_expired_leaf_was_valid_once(authority: TestAuthority) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    leaf = load(authority.issue("a.example", not_after=yesterday))
    assert leaf.not_valid_before_utc < leaf.not_valid_after_utc < datetime.now(UTC)
