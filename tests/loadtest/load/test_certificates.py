"""The load test's own authority."""

import time
from pathlib import Path

from loadtest.load.certificates import LoadAuthority
from workers.gateway.identity import load_trust, verify_peer


def test_it_is_made_once_and_found_again(tmp_path: Path) -> None:
    first, second = LoadAuthority(tmp_path), LoadAuthority(tmp_path)
    assert first.dialback_secret == second.dialback_secret
    assert len(first.dialback_secret) == 32
    trust = load_trust(str(first.bundle))
    pair = second.issue("d1.load.example")
    verify_peer(pair.chain, trust, time.time(), domain="d1.load.example")


def test_its_secrets_are_nobody_elses(tmp_path: Path) -> None:
    LoadAuthority(tmp_path)
    for name in ("ca.key", "dialback.secret"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_every_domain_has_a_key_of_its_own(tmp_path: Path) -> None:
    authority = LoadAuthority(tmp_path)
    one, other = authority.issue("d1.load.example"), authority.issue("d2.load.example")
    assert one.chain[0].public_key() != other.chain[0].public_key()
    assert one.names == {"d1.load.example"}
