import subprocess
from pathlib import Path

from coordinator import attach
from coordinator.config import Cluster, Config, Gateway, Local


def config_with(**local: str) -> Config:
    return Config(
        gateway=Gateway(domains=("capulet.example",), state_dir="/var/lib/fedgate"),
        local=Local(**local),
    )


def text_of(config: Config, server: str) -> str:
    return "\n".join(block.text for block in attach.blocks(config, server))


def test_prosodys_block_has_the_proved_options_with_real_ports_and_paths() -> None:
    text = text_of(config_with(dns="127.0.0.7:5354"), "prosody")

    for line in (
        'unbound = { resolvconf = false; forward = { "127.0.0.7@5354" } }',
        's2s_ssl = { cafile = "/var/lib/fedgate/ca.pem" }',
        "smacks_s2s_resend = true",
        "network_settings = { nagle = false }",
        'limits = { c2s = { rate = "10kb/s" }; s2sin = { rate = "100mb/s" } }',
    ):
        assert f"\n{line}\n" in text


def test_prosodys_block_is_lua(tmp_path: Path) -> None:
    (tmp_path / "block.lua").write_text(text_of(config_with(), "prosody"))
    subprocess.run(["luac5.4", "-p", str(tmp_path / "block.lua")], check=True)


def test_ejabberds_blocks_are_for_two_files() -> None:
    yaml, inetrc = attach.blocks(config_with(), "ejabberd")

    assert yaml.file == "/etc/ejabberd/ejabberd.yml"
    assert '\ns2s_cafile: "/var/lib/fedgate/ca-bundle.pem"\n' in yaml.text
    assert "\ns2s_max_retry_delay: 1\n" in yaml.text
    assert inetrc.file == "/etc/ejabberd/inetrc"
    assert inetrc.text.endswith(
        '{lookup,["file","native"]}.\n'
        '{host,{127,0,0,1}, ["localhost","hostalias"]}.\n'
        '{resolv_conf, ""}.\n'
        "{nameserver, {127,0,0,1}, 5053}.\n"
    )


def test_a_wildcard_is_written_as_loopback_and_ipv6_as_erlang_does() -> None:
    assert '"127.0.0.1@53"' in text_of(config_with(dns="0.0.0.0:53"), "prosody")
    assert '"::1@53"' in text_of(config_with(dns="[::]:53"), "prosody")
    assert "{nameserver, {8193,3512,0,0,0,0,0,1}, 53}." in text_of(
        config_with(dns="[2001:db8::1]:53"), "ejabberd"
    )


def test_every_line_that_is_no_option_is_a_comment() -> None:
    for server, marks in (("prosody", ("--",)), ("ejabberd", ("#", "%%"))):
        for line in text_of(config_with(), server).splitlines():
            assert not line or line.startswith(marks) or "=" in line or line[0] in "s{", line


def test_without_steering_the_resolver_is_left_alone() -> None:
    config = config_with(dns="")

    assert "unbound" not in text_of(config, "prosody")
    assert len(attach.blocks(config, "ejabberd")) == 1
    assert any("local.dns is off" in line for line in attach.warnings(config, "prosody"))


def warned(config: Config, server: str, words: str) -> bool:
    lines = attach.warnings(config, server)
    assert all("\n" not in line for line in lines)
    return any(words in line for line in lines)


def test_the_warnings_fit_the_server() -> None:
    config = config_with()

    assert warned(config, "prosody", "30kb/s means about 90 stanzas")
    assert not warned(config, "ejabberd", "30kb/s")
    assert warned(config, "ejabberd", "ejabberd cannot resend")
    assert warned(config, "prosody", "/var/lib/fedgate/ca.key can pose as any remote domain")


def test_what_the_configuration_makes_special_is_warned_of() -> None:
    assert warned(config_with(advertise="gw.example."), "ejabberd", "asks libc")
    assert not warned(config_with(advertise="gw.example."), "prosody", "asks libc")
    assert warned(config_with(server="127.0.0.1:5270"), "prosody", "accept s2s at 127.0.0.1:5270")
    assert not warned(config_with(), "prosody", "accept s2s")
    assert warned(config_with(authenticate="none"), "prosody", "any local process")
    dot_test = Config(gateway=Gateway(domains=("a.test",)))
    assert warned(dot_test, "prosody", "never asks for names under .test")
    cluster = Config(gateway=Gateway(domains=("a",)), cluster=Cluster(secret_file="/shared"))
    assert warned(cluster, "prosody", "whoever reads /shared")


def test_the_server_trusts_the_files_that_the_authority_writes() -> None:
    assert attach.ca_file(config_with()) == Path("/var/lib/fedgate/ca.pem")
    assert attach.ca_bundle(config_with()) == Path("/var/lib/fedgate/ca-bundle.pem")
