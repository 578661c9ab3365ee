"""The exact block that attaches a stock Prosody or ejabberd, with this gateway's ports and paths.

Pure text: nothing is read or written here. Each line was proved on Prosody 0.12 and ejabberd 23.01
with their distribution's configuration files; change one only with the servers at hand.
"""

import ipaddress
import json
from pathlib import Path

from coordinator import attach_component
from coordinator.address import Address, parse_address
from coordinator.attach_component import EJABBERD_FILE, PROSODY_FILE, Block
from coordinator.config import Config

__all__ = ["Block", "blocks", "ca_bundle", "ca_file", "warnings"]

INETRC_FILE = "/etc/ejabberd/inetrc"
# libunbound, which Prosody asks for names, answers these itself (RFC 6761).
_NEVER_ASKED = (".test", ".invalid", ".localhost", ".onion")


def blocks(config: Config, server: str) -> list[Block]:
    """The blocks for "prosody" or "ejabberd", in the order in which they are to be pasted."""
    if config.local.attach == "component":
        return attach_component.blocks(config, server)
    return _prosody(config) if server == "prosody" else _ejabberd(config)


def warnings(config: Config, server: str) -> list[str]:
    """What the operator must know or change besides pasting the block; one line each."""
    if config.local.attach == "component":
        return attach_component.warnings(config, server)
    lines = []
    if not config.local.dns:
        lines.append(
            "local.dns is off: nothing steers the server's traffic to fedgate; set an address"
        )
    elif server == "ejabberd" and config.local.advertise not in ("localhost.", "localhost"):
        lines.append(
            f"ejabberd asks libc, not the steering DNS, for {config.local.advertise}: "
            'add it to /etc/hosts, or keep local.advertise = "localhost."'
        )
    if server == "prosody":
        lines += _prosody_warnings(config)
    else:
        lines.append(
            "ejabberd cannot resend: what it sent and fedgate had not yet handed on is lost "
            "when a worker is killed"
        )
    return [*lines, *_common_warnings(config)]


def ca_file(config: Config) -> Path:
    """The private CA's certificate, which the local server is to trust."""
    return Path(config.gateway.state_dir) / "ca.pem"


def ca_bundle(config: Config) -> Path:
    """The public CAs and the private one in one file, for a server that takes only one."""
    return Path(config.gateway.state_dir) / "ca-bundle.pem"


def _prosody(config: Config) -> list[Block]:
    lines = [f"---- fedgate: in {PROSODY_FILE}, before the first VirtualHost ----"]
    if config.local.dns:
        host, port = _reachable(config.local.dns)
        forward = json.dumps(f"{host}@{port}")
        lines += [
            "-- all names are resolved by fedgate, which steers s2s and passes on the rest",
            f"unbound = {{ resolvconf = false; forward = {{ {forward} }} }}",
        ]
    lines += [
        "-- fedgate speaks as the remote domains; public CAs stay trusted through capath",
        f"s2s_ssl = {{ cafile = {json.dumps(str(ca_file(config)))} }}",
        "-- sends again what fedgate has not acknowledged, instead of bouncing it",
        "smacks_s2s_resend = true",
        "-- no stalls of 40 ms",
        "network_settings = { nagle = false }",
        "-- Debian ships s2sin = 30kb/s, far too little: all federation comes by these streams",
        'limits = { c2s = { rate = "10kb/s" }; s2sin = { rate = "100mb/s" } }',
        "---- fedgate: end ----",
    ]
    return [Block(PROSODY_FILE, "\n".join(lines) + "\n")]


def _prosody_warnings(config: Config) -> list[str]:
    lines = [
        "remove Debian's own `limits = { … }` from prosody.cfg.lua: the last one in the file wins, "
        "and 30kb/s means about 90 stanzas a second",
        'keep "smacks", "tls", "saslauth" and "dialback" in modules_enabled and '
        "s2s_secure_auth = true, as Debian ships them",
        "if one remote domain gets more than about 100 stanzas a second, add "
        "`smacks_max_queue_size = 2000`: Prosody can send again only its last 500 of a stream, "
        "which must last until a stopped worker is replaced (gateway.hang_timeout); each slot "
        "costs 16 bytes in every session, clients' too",
    ]
    lines += [
        f"{domain}: Prosody's resolver never asks for names under {ending}, use another domain"
        for domain in config.gateway.domains
        for ending in _NEVER_ASKED
        if domain.endswith(ending)
    ]
    return lines


def _ejabberd(config: Config) -> list[Block]:
    yaml = [
        f"# fedgate: in {EJABBERD_FILE}, at the top level",
        "# replaces the list of trusted CAs: the public ones with fedgate's, which speaks as the",
        "# remote domains",
        f"s2s_cafile: {json.dumps(str(ca_bundle(config)))}",
        "# default 300: after one failed connection it would bounce everything for minutes",
        "s2s_max_retry_delay: 1",
    ]
    found = [Block(EJABBERD_FILE, "\n".join(yaml) + "\n")]
    if config.local.dns:
        address = _reachable(config.local.dns)
        inetrc = [
            f"%% fedgate: the whole of {INETRC_FILE}; all names are resolved by fedgate,",
            "%% which steers s2s and passes on the rest",
            '{lookup,["file","native"]}.',
            '{host,{127,0,0,1}, ["localhost","hostalias"]}.',
            '{resolv_conf, ""}.',
            f"{{nameserver, {_erlang_address(address.host)}, {address.port}}}.",
        ]
        found.append(Block(INETRC_FILE, "\n".join(inetrc) + "\n"))
    return found


def _common_warnings(config: Config) -> list[str]:
    servers = {parse_address(config.local.server_for(d)) for d in config.gateway.domains}
    lines = [
        f"the local server must accept s2s at {server} (local.server); the default port is 5269"
        for server in sorted(servers)
        if server.port != 5269
    ]
    if config.local.authenticate == "none":
        lines.append("local.authenticate is none: any local process can send as your users")
    key = config.cluster.secret_file or str(Path(config.gateway.state_dir) / "ca.key")
    lines.append(
        f"whoever reads {key} can pose as any remote domain towards your server: keep it 0600"
    )
    return lines


def _reachable(text: str) -> Address:
    return parse_address(text).reachable()


def _erlang_address(host: str) -> str:
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return "{" + ",".join(str(octet) for octet in address.packed) + "}"
    groups = (address.packed[i] << 8 | address.packed[i + 1] for i in range(0, 16, 2))
    return "{" + ",".join(str(group) for group in groups) + "}"
