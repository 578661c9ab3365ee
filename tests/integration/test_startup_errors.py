"""Bad input at start: one line that names the cause and the next step, and a non-zero exit."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loadtest.stage.addresses import ADMIN_PORT, LOCAL_PORT, WEBSOCKET_PORT, Addresses
from loadtest.stage.authority import KeyPair, TestAuthority
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import accepts

DOMAIN = "capulet.example"


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


@pytest.fixture
def gateway(tmp_path: Path, authority: TestAuthority) -> Iterator[Gateway]:
    """A gateway that would start, but for what a test breaks."""
    addresses = Addresses()
    yield Gateway(
        "gateway",
        (DOMAIN,),
        addresses.of(1),
        tmp_path / "gateway",
        certificate=authority.issue(DOMAIN),
        trust=authority.bundle,
        server=(addresses.of(2), 5269),
        upstream_dns=f"{addresses.of(3)}:53",
        log=tmp_path / "gateway.log",
        workers=1,
    )
    addresses.release()


async def refusal(gateway: Gateway, *words: str) -> int:
    """Start it, expect one line with these words on stderr, and return the exit code."""
    code, out, error = await gateway.run_any("up", within=20)
    lines = error.strip().splitlines()
    assert code != 0, out + error
    assert len(lines) == 1, error
    assert lines[0].startswith("fedgate: ")
    assert "Traceback" not in error
    for word in words:
        assert word in lines[0], (word, lines[0])
    assert ";" in lines[0], f"no next step: {lines[0]}"
    assert not gateway.leftover_pids()
    assert not accepts(gateway.address, ADMIN_PORT)
    return code


def use(gateway: Gateway, pair: KeyPair) -> None:
    files = {"certificate": str(pair.certificate), "key": str(pair.key)}
    gateway.configure("certificates", pairs=[files])


async def test_an_unknown_key_names_the_nearest(gateway: Gateway) -> None:
    gateway.configure("websocket", listne="127.0.0.1:443")
    assert await refusal(gateway, "listne", "listen") == 3


async def test_a_value_of_the_wrong_type(gateway: Gateway) -> None:
    gateway.configure("gateway", workers="many")
    assert await refusal(gateway, "workers", "many") == 3


async def test_no_domains(gateway: Gateway) -> None:
    gateway.configure("gateway", domains=[])
    assert await refusal(gateway, "domains") == 3


async def test_a_missing_key_file(gateway: Gateway, authority: TestAuthority) -> None:
    pair = authority.issue(DOMAIN)
    pair.key.unlink()
    use(gateway, pair)
    assert await refusal(gateway, pair.key.name) == 6


async def test_a_key_of_another_certificate(gateway: Gateway, authority: TestAuthority) -> None:
    one, other = authority.issue(DOMAIN), authority.issue(DOMAIN)
    use(gateway, KeyPair(one.certificate, other.key))
    assert await refusal(gateway, one.certificate.name) == 6


async def test_an_expired_certificate(gateway: Gateway, authority: TestAuthority) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    use(gateway, authority.issue(DOMAIN, not_after=yesterday))
    assert await refusal(gateway, "expired") == 6


@pytest.mark.parametrize("port", [WEBSOCKET_PORT, LOCAL_PORT, ADMIN_PORT])
async def test_a_taken_port(gateway: Gateway, port: int) -> None:
    with socket.socket() as taken:
        # Bound but not listening: nothing else may have it, and nothing accepts there.
        taken.bind((gateway.address, port))
        assert await refusal(gateway, f"{gateway.address}:{port}") == 4


async def test_an_unreachable_redis(gateway: Gateway) -> None:
    gateway.configure("redis", url=f"redis://{gateway.address}:6379/0")
    assert await refusal(gateway, "redis") == 5
