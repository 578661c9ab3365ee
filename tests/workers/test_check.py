import json
import socket

import pytest

from coordinator.config import Certificates, Config, Discovery, Gateway, Local, Pair, Remote
from loadtest.stage.authority import TestAuthority
from tests.workers.gateway.endpoint import RemoteEndpoint, pair_of
from tests.workers.gateway.upstream import Upstream
from workers.check import Check, main, read_dialback_secret
from workers.gateway.steering import Steering

OWN, REMOTE = "capulet.example", "montague.example"


class Scene:
    """Our gateway's steering and certificate, an upstream DNS server, a remote endpoint."""

    def __init__(self, directory):
        self.directory = directory
        self.authority = TestAuthority(directory / "ca")
        self.own = self.authority.issue(OWN)
        self.local = {}
        self.remote = {}
        self.certificates = (Pair(certificate=str(self.own.certificate), key=str(self.own.key)),)
        self.endpoint = None

    async def start(self, **issue):
        self.upstream = await Upstream({(REMOTE, "A"): ["127.0.0.1"]}).start()
        options = {"ip_addresses": ["127.0.0.1"]} | issue
        pair = self.authority.issue(REMOTE, **options)
        self.endpoint = await RemoteEndpoint(REMOTE, pair_of(pair)).start()
        self.remote = {"url": self.endpoint.url, "trust": str(self.authority.bundle)}
        self.steering = Steering(self.config(dns="127.0.0.1:0"), lambda _domain: False)
        await self.steering.start()

    async def stop(self):
        await self.steering.close()
        await self.endpoint.stop()
        await self.upstream.stop()

    def config(self, **local):
        defaults = {"upstream_dns": (self.upstream.address,), "listen": "127.0.0.1:5271"}
        return Config(
            gateway=Gateway(domains=(OWN,), state_dir=str(self.directory)),
            certificates=Certificates(pairs=self.certificates, trust=str(self.authority.bundle)),
            local=Local(**(defaults | local)),
            remote={REMOTE: Remote(**self.remote)} if self.remote else {},
            discovery=Discovery(allow_networks=("127.0.0.0/8",), timeout=2.0),
        )

    async def check(self, domain=REMOTE, **local):
        self.lines = []
        local = {"dns": str(self.steering.address)} | local
        passed = await Check(self.config(**local), domain, self.lines.append).run()
        assert passed is all(line.status != "failed" for line in self.lines)
        assert all(line.status != "failed" or line.hint for line in self.lines)
        return passed

    def steps(self):
        return [line.step for line in self.lines]

    def line(self, step):
        return next(line.text for line in reversed(self.lines) if line.step == step)


@pytest.fixture
async def scene(tmp_path):
    scene = Scene(tmp_path)
    await scene.start()
    yield scene
    await scene.stop()


async def test_every_step_of_a_working_domain_is_told(scene):
    assert await scene.check(), scene.lines
    assert scene.steps() == [
        "dns", "steering", "host-meta", "tcp", "tls",
        "certificate", "websocket", "features", "authentication", "ping",
    ]  # fmt: skip
    assert scene.line("steering") == (
        'to port 5271 of localhost.: [remote."montague.example"] is configured'
    )
    assert "usage serverAuth" in scene.line("certificate")
    assert "EXTERNAL, dialback" in scene.line("features")
    assert scene.line("authentication").startswith("as capulet.example by external")
    assert scene.endpoint.chains[0][0].subject.rfc4514_string() == f"CN={OWN}"


async def test_dialback_is_used_where_external_is_not_offered(scene):
    (scene.directory / "dialback.secret").write_text("s" * 64)
    scene.endpoint.external = False
    assert await scene.check(), scene.lines
    assert "by dialback" in scene.line("authentication")
    assert len(scene.endpoint.keys[0]) == 64


async def test_a_refused_authentication_is_the_red_line(scene):
    (scene.directory / "dialback.secret").write_text("s" * 64)
    scene.endpoint.external = False
    scene.endpoint.outcome = "invalid"
    assert not await scene.check()
    assert scene.steps()[-2:] == ["features", "authentication"]


async def test_a_domain_the_endpoint_does_not_serve_is_the_red_line(scene):
    scene.endpoint.domain = "other.example"
    assert not await scene.check()
    assert scene.steps()[-1] == "features"
    assert "host-unknown" in scene.line("features")


async def test_a_wrong_certificate_stops_before_the_upgrade(scene):
    stranger = TestAuthority(scene.directory / "stranger")
    scene.remote["trust"] = str(stranger.bundle)
    assert not await scene.check()
    assert scene.steps()[-2:] == ["tls", "certificate"]
    assert "unknown authority" in scene.line("certificate")


async def test_a_wrong_path_is_told_at_the_upgrade(scene):
    scene.remote["url"] = scene.endpoint.url.replace("/xmpp-s2s", "/elsewhere")
    assert not await scene.check()
    assert scene.steps()[-2:] == ["certificate", "websocket"]
    assert "404" in scene.line("websocket")


async def test_a_closed_port_is_told(scene):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        scene.remote["url"] = f"wss://127.0.0.1:{closed.getsockname()[1]}/"
        assert not await scene.check()
    assert scene.steps()[-1] == "tcp"


async def test_a_silent_steering_server_is_told(scene, monkeypatch):
    monkeypatch.setattr("workers.check._STEERING_SECONDS", 0.05)
    assert not await scene.check(dns="127.0.0.1:1")
    assert scene.steps() == ["dns", "steering"]


async def test_an_unknown_name_is_told(scene):
    assert not await scene.check("nowhere.example")
    assert scene.steps() == ["dns"]
    assert "does not exist" in scene.line("dns")


async def test_a_domain_without_wss_is_checked_natively(scene, monkeypatch):
    scene.remote = {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        scene.upstream.records |= {
            ("escalus.example", "A"): ["127.0.0.1"],
            ("_xmpp-server._tcp.escalus.example", "SRV"): [f"0 0 {port} escalus.example."],
        }
        assert await scene.check("escalus.example"), scene.lines
    assert scene.steps() == ["dns", "steering", "host-meta", "native"]
    assert scene.line("native").startswith(f"127.0.0.1:{port} accepts")


async def test_a_blocked_domain_and_our_own_are_told(scene):
    scene.remote["block"] = True
    assert not await scene.check()
    assert scene.steps()[-1] == "host-meta"
    assert not await scene.check(OWN)
    assert scene.steps() == ["configuration"]


def test_the_secret_is_read_and_never_made(tmp_path):
    config = Config(gateway=Gateway(domains=(OWN,), state_dir=str(tmp_path)))
    assert read_dialback_secret(config) == b""
    (tmp_path / "dialback.secret").write_text("x" * 64 + "\n")
    assert read_dialback_secret(config) == b"x" * 64


def write_config(directory):
    file = directory / "fedgate.toml"
    file.write_text(
        f'[gateway]\ndomains = ["{OWN}"]\nstate_dir = "{directory}"\n'
        '[local]\ndns = ""\nupstream_dns = ["127.0.0.1:1"]\n'
    )
    return str(file)


def test_json_is_one_object_and_the_exit_code_tells(tmp_path, capsys):
    assert main(["--config", write_config(tmp_path), "--json", OWN]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["domain"], report["ok"]) == (OWN, False)
    assert report["steps"][-1]["status"] == "failed"


def test_lines_are_printed_with_a_hint(tmp_path, capsys):
    assert main(["--config", write_config(tmp_path), OWN]) == 1
    output = capsys.readouterr().out
    assert output.startswith("FAILED configuration")
    assert "→ name a remote domain" in output


@pytest.mark.parametrize(
    ("arguments", "code"), [(["a..b"], 2), (["--config", "/nonexistent.toml", REMOTE], 3)]
)
def test_bad_input_is_one_line(arguments, code, tmp_path, capsys):
    if "--config" not in arguments:
        arguments = ["--config", write_config(tmp_path), *arguments]
    assert main(arguments) == code
    assert capsys.readouterr().err.startswith("fedgate: ")


async def test_with_components_the_domain_must_be_declared(scene):
    assert await scene.check(attach="component", dns=""), scene.lines
    assert scene.line("component").startswith("declared")
    scene.remote = {}
    assert not await scene.check(attach="component", dns="")
    assert scene.steps() == ["dns", "component"]
    assert "not declared under [remote]" in scene.line("component")
