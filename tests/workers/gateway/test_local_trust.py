"""Who is taken for the local server: the pinned key, a verifying certificate, nobody else."""

from pathlib import Path

import pytest

from coordinator import pins
from coordinator.config import Certificates, Config, Gateway, Local
from loadtest.stage.authority import TestAuthority
from workers.gateway.certificates import KeyPair, load_pair
from workers.gateway.identity import TrustSources
from workers.gateway.local_trust import LocalTrust

DOMAIN = "capulet.example"


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


def pair(authority: TestAuthority, name: str = DOMAIN, *, self_signed: bool = False) -> KeyPair:
    issued = authority.issue(name, self_signed=self_signed)
    return load_pair(issued.certificate, issued.key)


def trust(tmp_path: Path, authority: TestAuthority, **local: str) -> LocalTrust:
    config = Config(
        gateway=Gateway(domains=(DOMAIN,), state_dir=str(tmp_path)),
        certificates=Certificates(trust=str(authority.bundle)),
        local=Local(**local),
    )
    return LocalTrust(config, TrustSources(config))


def test_a_pinned_key_is_enough(tmp_path: Path, authority: TestAuthority) -> None:
    key = pair(authority, "localhost", self_signed=True)
    made = trust(tmp_path, authority)
    assert "not pinned" in made.why_not(DOMAIN, key.chain)
    pins.save(str(tmp_path), {DOMAIN: [pins.key_digest(key.chain[0])]})
    made.reload()
    assert made.why_not(DOMAIN, key.chain) == ""


def test_a_pin_is_for_its_domain_only(tmp_path: Path, authority: TestAuthority) -> None:
    key = pair(authority, "localhost", self_signed=True)
    pins.save(str(tmp_path), {"other.example": [pins.key_digest(key.chain[0])]})
    assert trust(tmp_path, authority).why_not(DOMAIN, key.chain)


def test_a_certificate_that_verifies_is_enough(tmp_path: Path, authority: TestAuthority) -> None:
    assert trust(tmp_path, authority).why_not(DOMAIN, pair(authority).chain) == ""


def test_neither_is_refused_with_both_reasons(tmp_path: Path, authority: TestAuthority) -> None:
    pins.save(str(tmp_path), {DOMAIN: ["0" * 64]})
    stranger = pair(authority, self_signed=True)
    reason = trust(tmp_path, authority).why_not(DOMAIN, stranger.chain)
    assert "not the pinned one" in reason and "does not verify" in reason


def test_a_certificate_for_another_domain_is_refused(
    tmp_path: Path, authority: TestAuthority
) -> None:
    reason = trust(tmp_path, authority).why_not(DOMAIN, pair(authority, "other.example").chain)
    assert "other.example" in reason


def test_no_certificate_is_refused(tmp_path: Path, authority: TestAuthority) -> None:
    assert "no certificate" in trust(tmp_path, authority).why_not(DOMAIN, [])


def test_a_bundle_that_cannot_be_read_any_more_refuses(
    tmp_path: Path, authority: TestAuthority
) -> None:
    made = trust(tmp_path, authority)
    authority.bundle.unlink()
    assert "at the moment" in made.why_not(DOMAIN, pair(authority).chain)


def test_authentication_may_be_off(tmp_path: Path, authority: TestAuthority) -> None:
    assert trust(tmp_path, authority, authenticate="none").why_not(DOMAIN, []) == ""
