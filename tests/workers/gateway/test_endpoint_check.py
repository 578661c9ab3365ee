import socket

import pytest

from coordinator.config import Certificates, Config, Gateway, Limits
from loadtest.stage.authority import TestAuthority
from tests.workers.gateway.endpoint import RemoteEndpoint, pair_of
from workers.gateway.discovery import Discovery
from workers.gateway.endpoint_check import EndpointCheck, StepFailed
from workers.gateway.hostmeta import parse_url
from workers.gateway.identity import TrustSources
from workers.gateway.judge import Judge
from workers.gateway.resolver import Resolver

OWN, REMOTE = "capulet.example", "montague.example"


@pytest.fixture
def authority(tmp_path):
    return TestAuthority(tmp_path / "ca")


async def load(_domain):
    return None


async def save(_domain, _payload, _seconds): ...


class Attempt:
    """One run against a URL on loopback: the steps passed and the one that failed."""

    def __init__(self, authority, url, **limits):
        self.steps = {}
        config = Config(
            gateway=Gateway(domains=(OWN,)),
            certificates=Certificates(trust=str(authority.bundle)),
            limits=Limits(**limits),
        )
        self.discovery = Discovery(config, Resolver(["127.0.0.1:9"], timeout=0.1), load, save)
        self._check = EndpointCheck(
            config,
            parse_url(url, configured=True),
            local=OWN,
            remote=REMOTE,
            context=None,
            judge=Judge(TrustSources(config), self.discovery),
            secret=b"s" * 64,
            say=self.steps.__setitem__,
        )

    async def run(self, addresses=("127.0.0.1",)):
        try:
            await self._check.run(list(addresses))
        finally:
            await self.discovery.close()

    async def fail(self):
        with pytest.raises(StepFailed) as failed:
            await self.run()
        assert failed.value.hint
        return failed.value


async def test_a_delegated_host_in_the_certificate_is_enough(authority):
    pair = authority.issue("gw.montague.example", server_auth_only=False)
    endpoint = await RemoteEndpoint(REMOTE, pair_of(pair)).start()
    attempt = Attempt(authority, f"wss://gw.montague.example:{endpoint.port}/xmpp-s2s")
    await attempt.run()
    assert list(attempt.steps) == [
        "tcp", "tls", "certificate", "websocket", "features", "authentication", "ping",
    ]  # fmt: skip
    assert attempt.steps["certificate"].endswith("usage clientAuth, serverAuth")
    await endpoint.stop()


async def test_a_certificate_for_another_name_is_told(authority):
    endpoint = await RemoteEndpoint(REMOTE, pair_of(authority.issue("other.example"))).start()
    url = f"wss://gw.montague.example:{endpoint.port}/xmpp-s2s"
    failure = await Attempt(authority, url).fail()
    assert failure.step == "certificate"
    assert failure.reason == (
        "the certificate is for other.example, not for montague.example or gw.montague.example"
    )
    await endpoint.stop()


async def test_the_next_address_is_tried(authority):
    endpoint = await RemoteEndpoint(REMOTE, pair_of(authority.issue(REMOTE))).start()
    attempt = Attempt(authority, f"wss://montague.example:{endpoint.port}/xmpp-s2s")
    await attempt.run(["::1", "127.0.0.1"])
    assert attempt.steps["tcp"].startswith("127.0.0.1 port")
    await endpoint.stop()


async def test_a_port_that_speaks_no_tls_is_told(authority):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"wss://montague.example:{server.getsockname()[1]}/"
        failure = await Attempt(authority, url, connect_timeout=0.1).fail()
    assert failure.step == "tls"


async def test_without_a_way_to_authenticate_the_hint_names_our_certificate(authority):
    pair = pair_of(authority.issue(REMOTE))
    endpoint = await RemoteEndpoint(REMOTE, pair, external=False, outcome="invalid").start()
    url = f"wss://montague.example:{endpoint.port}/xmpp-s2s"
    failure = await Attempt(authority, url).fail()
    assert failure.step == "authentication"
    assert "no certificate covers capulet.example" in failure.hint
    await endpoint.stop()
