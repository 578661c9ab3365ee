import dataclasses
import resource
from pathlib import Path

import pytest

from coordinator.certificates import Finding
from coordinator.config import Admin, Certificates, Config, Gateway, Local, Remote, WebSocket
from coordinator.configcheck import check, exit_code
from coordinator.exits import ExitCode
from tests.coordinator.pem import NOW, write_pair


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        gateway=Gateway(domains=("capulet.example",), state_dir=str(tmp_path / "new" / "state")),
        certificates=Certificates(pairs=(write_pair(tmp_path, "capulet.example"),)),
        websocket=WebSocket(public_url="wss://capulet.example/"),
    )


def causes(config: Config) -> list[str]:
    return [finding.cause for finding in check(config, NOW)]


def test_a_correct_configuration_has_no_findings(config: Config) -> None:
    assert check(config, NOW) == []
    assert exit_code([]) == ExitCode.OK


def test_trust_bundles_must_be_readable_pem(config: Config, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    trust = dataclasses.replace(config.certificates, trust="/none.pem")
    remote = {"b.example": Remote(trust=str(tmp_path / "empty.pem"))}

    found = causes(dataclasses.replace(config, certificates=trust, remote=remote))

    assert found == [
        "certificates.trust: cannot read /none.pem: No such file or directory",
        f'remote."b.example".trust: {tmp_path}/empty.pem holds no PEM certificate',
    ]


def test_the_state_directory_must_be_creatable(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    gateway = dataclasses.replace(config.gateway, state_dir=str(tmp_path / "file" / "state"))

    [cause] = causes(dataclasses.replace(config, gateway=gateway))

    assert cause == f"gateway.state_dir: this user cannot write in {tmp_path}/file"


def test_two_options_on_one_address_are_an_error(config: Config) -> None:
    config = dataclasses.replace(config, admin=Admin(listen="127.0.0.1:5271"))

    assert causes(config) == ["admin.listen and local.listen are both 127.0.0.1:5271"]


def test_a_unix_socket_and_no_steering_take_no_port(config: Config) -> None:
    config = dataclasses.replace(config, admin=Admin(listen="/a.sock"), local=Local(dns=""))

    assert causes(config) == []


def test_weak_settings_are_warnings(config: Config) -> None:
    config = dataclasses.replace(
        config,
        websocket=WebSocket(client_certificate_header="Client-Cert"),
        local=Local(authenticate="none"),
    )

    findings = check(config, NOW)

    assert len(findings) == 2
    assert exit_code(findings) == ExitCode.OK


def test_without_tls_somebody_must_be_trusted_to_have_it(config: Config) -> None:
    config = dataclasses.replace(config, websocket=WebSocket(tls=False))

    [finding] = check(config, NOW)

    assert finding.cause == "websocket.tls is false and websocket.trusted_proxies is empty"
    assert finding.is_error and finding.exit_code == ExitCode.CONFIGURATION
    proxied = WebSocket(tls=False, trusted_proxies=("127.0.0.1/32",))
    assert causes(dataclasses.replace(config, websocket=proxied)) == []


def test_components_want_their_own_port_on_this_machine(config: Config) -> None:
    local = Local(attach="component", secret="s", server="192.0.2.1:5269", dns="")

    findings = check(dataclasses.replace(config, local=local), NOW)

    assert [finding.cause for finding in findings] == [
        "local.server is 192.0.2.1:5269, the usual port for s2s, but attach is component",
        "local.server is 192.0.2.1:5269: components have no TLS, all is sent in the clear",
    ]
    assert exit_code(findings) == ExitCode.OK
    local = dataclasses.replace(local, server="localhost:5347", listen="127.0.0.1:5290")
    assert causes(dataclasses.replace(config, local=local)) == []


def test_few_open_files_are_a_warning(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))

    assert causes(config) == ["this user may open only 1024 files, one is needed per session"]


def test_errors_come_first_and_give_the_code(config: Config, tmp_path: Path) -> None:
    old = write_pair(tmp_path, "capulet.example", file="old", until=NOW)
    config = dataclasses.replace(
        config,
        certificates=Certificates(pairs=(old,)),
        local=Local(authenticate="none"),
    )

    findings = check(config, NOW)

    assert [finding.is_error for finding in findings] == [True, False]
    assert exit_code(findings) == ExitCode.CERTIFICATE
    wrong = Finding("a", "b", exit_code=ExitCode.CONFIGURATION)
    assert exit_code([wrong]) == ExitCode.CONFIGURATION
