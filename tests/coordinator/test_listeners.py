import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.config import Admin, Config, Local, WebSocket
from coordinator.listeners import CannotBind, Listeners, bind_all, why_not_as_configured


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_everything_is_bound_and_named_for_the_workers(config: Config):
    bound = bind_all(config)
    names = dict(part.split("=") for part in bound.argument().split(";"))
    assert list(names) == ["websocket", "local", "dns-udp", "dns-tcp"]
    assert sorted(int(fd) for fd in names.values()) == sorted(bound.descriptors())
    assert bound.dns_udp[0].getsockname() == bound.dns_tcp[0].getsockname()
    assert not any(sock.get_inheritable() for sock in bound.websocket)
    assert bound.addresses()["admin"] == [config.admin.listen]
    bound.close()


def test_the_admin_socket_is_private_and_replaces_a_stale_one(config: Config):
    bind_all(config).close()
    bound = bind_all(config)
    assert Path(config.admin.listen).stat().st_mode & 0o777 == 0o600
    with pytest.raises(CannotBind, match="another process has it"):
        bind_all(config)
    bound.close()


def test_an_ipv6_wildcard_accepts_ipv4_too(config: Config):
    config = replace(config, websocket=WebSocket(listen=("[::]:0",)))
    bound = bind_all(config)
    port = bound.websocket[0].getsockname()[1]
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    bound.close()


def test_without_steering_there_is_no_dns_socket(config: Config):
    bound = bind_all(replace(config, local=Local(listen="127.0.0.1:0", dns="")))
    assert not bound.dns_udp and "dns" not in bound.argument()
    bound.close()


def test_the_coordinator_alone_binds_only_its_own(config: Config):
    bound = bind_all(config, shared=False)
    assert bound.descriptors() == [] and len(bound.admin) == 1
    bound.close()


@pytest.mark.parametrize("key", ["websocket.listen", "local.listen", "local.dns", "admin.listen"])
def test_a_taken_port_is_one_line_with_address_cause_and_next_step(
    config: Config, taken: str, key: str
):
    changed = {
        "websocket.listen": replace(config, websocket=WebSocket(listen=(taken,))),
        "local.listen": replace(config, local=replace(config.local, listen=taken)),
        # UDP is free there: it is the TCP side that is taken.
        "local.dns": replace(config, local=replace(config.local, dns=taken)),
        "admin.listen": replace(config, admin=Admin(listen=taken)),
    }[key]
    with pytest.raises(CannotBind) as caught:
        bind_all(changed)
    assert str(caught.value) == (
        f"cannot listen on {taken}: another process has it; "
        f"stop that process (ss -lptun shows it) or change {key}"
    )


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("203.0.113.1:0", "this machine has no such address"),
        ("nonsense", "not host:port"),
        ("no-such-host.invalid:1", "change websocket.listen"),
    ],
)
def test_other_causes_are_named_too(config: Config, address: str, cause: str):
    with pytest.raises(CannotBind, match=cause):
        bind_all(replace(config, websocket=WebSocket(listen=(address,))))


def test_a_unix_path_that_cannot_be_made_is_named(config: Config, tmp_path: Path):
    with pytest.raises(CannotBind, match=r"none/admin\.sock: No such file"):
        bind_all(replace(config, admin=Admin(listen=str(tmp_path / "none" / "admin.sock"))))


def test_handed_over_sockets_must_be_those_of_the_configuration(config: Config):
    bound = bind_all(config)
    handed = Listeners.of(bound.shared())
    assert handed.addresses()["local"] == bound.addresses()["local"]
    assert why_not_as_configured(config, handed) == ""
    fixed = replace(config, local=replace(config.local, listen=bound.addresses()["local"][0]))
    assert why_not_as_configured(fixed, handed) == ""
    other = replace(config, websocket=WebSocket(listen=("127.0.0.1:0", "127.0.0.2:0")))
    assert why_not_as_configured(other, handed) == "websocket.listen is 127.0.0.2:0 now"
    without = replace(config, local=replace(config.local, dns=""))
    assert why_not_as_configured(without, handed) == "local.dns has changed"
    bound.close()
