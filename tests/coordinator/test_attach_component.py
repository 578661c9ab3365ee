import subprocess
from pathlib import Path

import pytest
import yaml

from coordinator import attach
from coordinator.config import Config, Gateway, Local, Remote

SECRET = 'quote " back \\ tab \t é'


def config_with(server: str = "127.0.0.7:5350", secret: str = SECRET, **remote: Remote) -> Config:
    declared = {"montague.example": Remote(), "xn--mnchen-3ya.example": Remote(), "*": Remote()}
    return Config(
        gateway=Gateway(domains=("capulet.example",)),
        local=Local(attach="component", server=server, secret=secret),
        remote={**declared, **remote},
    )


def text_of(config: Config, server: str) -> str:
    [block] = attach.blocks(config, server)
    return block.text


def test_prosody_gets_a_component_for_each_declared_domain(tmp_path: Path) -> None:
    text = text_of(config_with(blocked=Remote(block=True)), "prosody")

    assert '\ncomponent_interfaces = { "127.0.0.7" }\ncomponent_ports = { 5350 }\n' in text
    assert text.count("\nComponent ") == 2
    assert '\nComponent "montague.example"\n\tcomponent_secret = ' in text
    assert '\nComponent "münchen.example"\n' in text
    assert "s2s_ssl" not in text
    script = "function Component(name) end\n" + text + "io.write(component_secret)"
    (tmp_path / "block.lua").write_text(script)
    done = subprocess.run(["lua5.4", str(tmp_path / "block.lua")], capture_output=True, check=True)
    assert done.stdout.decode() == SECRET


def test_ejabberd_gets_one_listener_that_keeps_the_domains_apart() -> None:
    [listener] = yaml.safe_load(text_of(config_with(), "ejabberd"))

    assert listener == {
        "port": 5350,
        "ip": "127.0.0.7",
        "module": "ejabberd_service",
        "global_routes": False,
        "hosts": {
            "montague.example": {"password": SECRET},
            "münchen.example": {"password": SECRET},
        },
    }


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("prosody", "only the domains under [remote] are carried"),
        ("prosody", "one connection per component name"),
        ("prosody", "add a Component for each new domain"),
        ("prosody", "get remote-server-timeout"),
        ("ejabberd", "at random: nothing would be in order"),
        ("ejabberd", "keep global_routes: false"),
        ("ejabberd", "by s2s instead"),
        ("ejabberd", "any local user can bind the port"),
    ],
)
def test_the_warnings_fit_the_server(server: str, words: str) -> None:
    lines = attach.warnings(config_with(), server)
    assert all("\n" not in line for line in lines)
    assert any(words in line for line in lines)


def test_another_machine_is_warned_of() -> None:
    lines = attach.warnings(config_with("192.0.2.1:5347"), "prosody")
    assert any("192.0.2.1:5347 is not on this machine" in line for line in lines)
    assert not any("is not on this machine" in line for line in attach.warnings(config_with(), "x"))
