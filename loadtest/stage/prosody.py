"""A stock Debian Prosody on the stage: its configuration file, its accounts, its process."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from loadtest.stage.addresses import C2S_PORT, COMPONENT_PORT, S2S_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.files import give_to, make_trust_directory
from loadtest.stage.processes import StageProcess

_USER = "prosody"
# The list of Debian's prosody.cfg.lua 0.12.3, without what only speaks to the outside of a server.
_MODULES = (
    "disco roster saslauth tls blocklist bookmarks carbons dialback limits pep private smacks "
    "vcard4 vcard_legacy csi_simple ping time uptime version admin_adhoc admin_shell posix"
).split()

_CONFIGURATION = """\
-- Debian's prosody.cfg.lua in its global part; paths and addresses are the stage's.
daemonize = false
pidfile = "{directory}/prosody.pid"
data_path = "{directory}/data"
admin_socket = "{directory}/admin.sock"
log = {{ {log_level} = "{log}" }}
interfaces = {{ "{address}" }}
local_interfaces = {{ "{address}" }}
component_ports = {{ {component_port} }}
component_interfaces = {{ "{address}" }}
use_ipv6 = false
modules_enabled = {{ {modules} }}
http_ports = {{ }}
https_ports = {{ }}
s2s_secure_auth = true
limits = {{ s2sin = {{ rate = "30kb/s" }} }}
authentication = "internal_plain"
-- Debian's 10 kb/s for clients stays, but not for those of the stage.
unlimited_jids = {{ {jids} }}
certificates = "{directory}/certs"
-- The stage's stand-in for /etc/ssl/certs.
ssl = {{ capath = "{directory}/trust" }}
-- The users of the stage log in on loopback without TLS.
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
{resolver}
{block}
{queue}

{hosts}
{rooms}
{components}
"""


class Prosody:
    """One Prosody: its domain, more domains with the same users, an optional MUC domain.

    `components` are domains that external components (XEP-0114) may connect as, with their secrets.
    Without `attach()` its resolver is the stage's DNS and it federates natively.
    """

    def __init__(
        self,
        domain: str,
        address: str,
        directory: Path,
        *,
        certificate: KeyPair,
        trust: Path,
        resolver: str,
        log: Path,
        rooms: str = "",
        more_domains: Sequence[str] = (),
        accounts: Mapping[str, str] | None = None,
        components: Mapping[str, str] | None = None,
        log_level: str = "debug",
    ) -> None:
        self.domain = domain
        self.rooms = rooms
        self.domains = (domain, *more_domains)
        self.components = dict(components or {})
        self._log_level = log_level
        self._accounts = accounts or {}
        self.address = address
        self.directory = directory
        self.log = log
        self._resolver = resolver
        self._block = ""
        self._config = directory / "prosody.cfg.lua"
        self._prepare(certificate, trust)
        self.process = StageProcess(
            f"prosody of {domain}",
            ["prosody", "-F", "--config", str(self._config)],
            log.with_suffix(".out"),
            directory=directory,
            user=_USER,
        )

    @property
    def s2s_address(self) -> tuple[str, int]:
        return self.address, S2S_PORT

    async def start(self) -> None:
        """Write the configuration and start; returns when both ports accept."""
        self._config.write_text(self._configuration())
        self.process.start()
        await self.process.wait_for_port(self.address, C2S_PORT)
        await self.process.wait_for_port(self.address, S2S_PORT)

    async def stop(self) -> None:
        await self.process.stop()

    async def restart(self) -> None:
        """Stop as the service manager would, and start again."""
        await self.stop()
        await self.start()

    async def attach(self, block: str) -> None:
        """Put the lines of `fedgate attach prosody` into the file and restart ("" detaches)."""
        self._block = block
        if self.process.is_running:
            await self.restart()

    def _configuration(self) -> str:
        resolver = f'unbound = {{ resolvconf = false; forward = {{ "{self._resolver}" }} }}'
        trust = f's2s_ssl = {{ cafile = "{self.directory}/trust/ca.pem" }}'
        return _CONFIGURATION.format(
            directory=self.directory,
            log=self.log,
            log_level=self._log_level,
            address=self.address,
            component_port=COMPONENT_PORT if self.components else "",
            modules="; ".join(f'"{module}"' for module in _MODULES),
            resolver="" if "unbound" in self._block else f"{resolver}\n{trust}",
            block=self._block,
            hosts="\n".join(f'VirtualHost "{domain}"' for domain in self.domains),
            jids="; ".join(f'"{jid}"' for jid in self._jids()),
            rooms=f'Component "{self.rooms}" "muc"' if self.rooms else "",
            components="\n".join(self._component_lines()),
            # For load: what `fedgate attach` advises beyond 100 stanzas a second and stream.
            queue="smacks_max_queue_size = 2000" if self.components else "",
        )

    def _component_lines(self) -> Iterator[str]:
        for domain, secret in self.components.items():
            yield f'Component "{domain}"\n\tcomponent_secret = "{secret}"'

    def _jids(self) -> list[str]:
        return [f"{name}@{domain}" for domain in self.domains for name in self._accounts]

    def _prepare(self, certificate: KeyPair, trust: Path) -> None:
        certs = self.directory / "certs"
        certs.mkdir(parents=True)
        for domain in filter(None, (*self.domains, self.rooms, *self.components)):
            shutil.copyfile(certificate.certificate, certs / f"{domain}.crt")
            shutil.copyfile(certificate.key, certs / f"{domain}.key")
        make_trust_directory(self.directory / "trust", trust)
        for domain in self.domains:
            folder = self.directory / "data" / _escaped(domain) / "accounts"
            folder.mkdir(parents=True)
            for name, password in self._accounts.items():
                (folder / f"{_escaped(name)}.dat").write_text(
                    f'return {{ ["password"] = "{password}"; }};\n'
                )
        self.log.touch()
        give_to(_USER, [self.directory, self.log])


def _escaped(name: str) -> str:
    """Prosody's name of a folder or file in its data store (util.datamanager)."""
    return "".join(c if c.isalnum() else f"%{ord(c):02x}" for c in name)
