"""The lines that let fedgate connect to Prosody or ejabberd as external components (XEP-0114).

Pure text, proved on Prosody 0.12 and ejabberd 23.01, as in attach.py.
"""

import json
from dataclasses import dataclass

from coordinator.address import Address, is_loopback, parse_address
from coordinator.config import Config
from coordinator.domains import written_domain

PROSODY_FILE = "/etc/prosody/prosody.cfg.lua"
EJABBERD_FILE = "/etc/ejabberd/ejabberd.yml"


@dataclass(frozen=True, slots=True)
class Block:
    """Text for one configuration file of the local server, and the file it belongs in."""

    file: str
    text: str


def blocks(config: Config, server: str) -> list[Block]:
    """The block for "prosody" or "ejabberd"."""
    return [_prosody(config) if server == "prosody" else _ejabberd(config)]


def warnings(config: Config, server: str) -> list[str]:
    """What the operator must know or change besides pasting the block; one line each."""
    lines = [
        "only the domains under [remote] are carried, as each is a component; all others go on by "
        "s2s as before. A session from any other domain is refused (policy-violation) and logged",
        "one connection per component name: do not run a second fedgate or test client with it",
        "components cannot send again: what the server sent and fedgate had not yet stored is lost "
        "when the worker is killed",
    ]
    lines += _prosody_warnings() if server == "prosody" else _ejabberd_warnings()
    addresses = _addresses(config)
    lines += [
        f"{address} is not on this machine: components have no TLS, all is sent in the clear"
        for address in addresses
        if not is_loopback(address.host)
    ]
    if any(address.port >= 1024 for address in addresses):
        lines.append(
            "nothing but the port proves to fedgate who the server is: while it is down, any local "
            "user can bind the port and pose as it; keep others off this machine, or use s2s. "
            "Whoever answers there sees a digest of local.secret: make it long and random"
        )
    return lines


def _prosody_warnings() -> list[str]:
    return [
        "add a Component for each new domain under [remote]: Prosody refuses names it does not "
        "have (host-unknown). Without a restart: `prosodyctl shell 'config:reload()'`, and only "
        "then `prosodyctl shell 'host:activate(\"partner.example\")'`",
        "leave component_conflict_resolve and validate_from_addresses at their defaults",
        "while fedgate is stopped, users who write to these domains get remote-server-timeout",
    ]


def _ejabberd_warnings() -> list[str]:
    return [
        "ejabberd accepts a second connection under the same name, and gives each stanza to one of "
        "the two at random: nothing would be in order",
        "keep global_routes: false (else each stream gets the stanzas of all these domains) and "
        "check_from at its default",
        "while fedgate is stopped, ejabberd sends to these domains by s2s instead",
    ]


def _prosody(config: Config) -> Block:
    addresses = _addresses(config)
    interfaces = ", ".join(json.dumps(host) for host in sorted({a.host for a in addresses}))
    ports = ", ".join(str(port) for port in sorted({a.port for a in addresses}))
    lines = [
        f"---- fedgate: in {PROSODY_FILE}, directly before the first VirtualHost ----",
        f"component_interfaces = {{ {interfaces} }}",
        f"component_ports = {{ {ports} }}",
        "-- no stalls of 40 ms",
        "network_settings = { nagle = false }",
        "-- the remote domains that fedgate carries, as external components",
    ]
    for name in _names(config):
        lines += [
            f"Component {json.dumps(name, ensure_ascii=False)}",
            f"\tcomponent_secret = {_lua(config.local.secret)}",
        ]
    lines.append("---- fedgate: end ----")
    return Block(PROSODY_FILE, "\n".join(lines) + "\n")


def _ejabberd(config: Config) -> Block:
    lines = [f"  # fedgate: in {EJABBERD_FILE}, an entry of the list `listen:`"]
    for address in _addresses(config):
        lines += [
            "  -",
            f"    port: {address.port}",
            f"    ip: {json.dumps(address.host)}",
            "    module: ejabberd_service",
            "    # else each stream would get the stanzas of all these domains",
            "    global_routes: false",
            "    hosts:",
        ]
        for name in _names(config):
            lines += [
                f"      {json.dumps(name, ensure_ascii=False)}:",
                f"        password: {json.dumps(config.local.secret, ensure_ascii=False)}",
            ]
    return Block(EJABBERD_FILE, "\n".join(lines) + "\n")


def _names(config: Config) -> list[str]:
    """The declared domains as servers spell them."""
    domains = [d for d, policy in config.remote.items() if d != "*" and not policy.block]
    return [written_domain(domain) for domain in domains]


def _addresses(config: Config) -> list[Address]:
    servers = {parse_address(config.local.server_for(d)) for d in config.gateway.domains}
    return sorted(server.reachable() for server in servers)


def _lua(text: str) -> str:
    """A Lua string: JSON's, with escapes that Lua 5.1 to 5.4 has."""
    escaped = "".join(
        f"\\{ord(c):03d}" if ord(c) < 32 or ord(c) == 127 else {"\\": "\\\\", '"': '\\"'}.get(c, c)
        for c in text
    )
    return f'"{escaped}"'
