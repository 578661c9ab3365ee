"""A stock Debian ejabberd on the stage: ejabberd.yml, inetrc, accounts, and its Erlang machine."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from loadtest.stage.addresses import C2S_PORT, COMPONENT_PORT, S2S_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.files import give_to
from loadtest.stage.processes import StageProcess

_USER = "ejabberd"
_DISTRIBUTION_PORT = 25200

_CONFIGURATION = """\
# Debian's ejabberd.yml in what concerns federation; addresses and paths are the stage's.
loglevel: {log_level}
hosts: ["{domain}"]
certfiles: ["{directory}/certificate.pem"]
listen:
  - {{port: {c2s}, ip: "{address}", module: ejabberd_c2s, max_stanza_size: 262144}}
  - {{port: {s2s}, ip: "{address}", module: ejabberd_s2s_in, max_stanza_size: 524288}}
{components}s2s_use_starttls: required
auth_password_format: scram
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
access_rules:
  local: {{allow: all}}
{trust}
modules:
  mod_adhoc: {{}}
  mod_blocking: {{}}
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_client_state: {{}}
  mod_disco: {{}}
  mod_last: {{}}
  mod_muc: {{host: "{rooms}", access_create: all}}
  mod_offline: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_private: {{}}
  mod_roster: {{versioning: true}}
  mod_s2s_dialback: {{}}
  mod_stream_mgmt: {{resend_on_timeout: if_offline}}
  mod_vcard: {{search: false}}
  mod_version: {{}}
"""

_INETRC = """\
{{lookup,["file","native"]}}.
{{host,{{127,0,0,1}}, ["localhost","hostalias"]}}.
{{resolv_conf, ""}}.
{{nameserver, {{{address}}}, {port}}}.
"""


class Ejabberd:
    """One ejabberd for one domain and its conference domain.

    `components` are domains that external components (XEP-0114) may connect as, with their secrets.
    Without `attach()` its resolver is the stage's DNS and it federates natively. Its resolver for
    addresses is the C library's, so native targets it has to reach are named by address.
    """

    def __init__(
        self,
        domain: str,
        address: str,
        directory: Path,
        *,
        certificate: KeyPair,
        trust: Path,
        resolver: tuple[str, int],
        log: Path,
        rooms: str,
        accounts: Mapping[str, str] | None = None,
        components: Mapping[str, str] | None = None,
        log_level: str = "debug",
    ) -> None:
        self.domain = domain
        self.components = dict(components or {})
        self._log_level = log_level
        self.rooms = rooms
        self.domains = (domain,)
        self.address = address
        self.directory = directory
        self.log = log
        self._resolver = resolver
        self._lines = ""
        self._inetrc = ""
        self._listener = ""
        self._prepare(certificate, trust)
        self.process = StageProcess(
            f"ejabberd of {domain}",
            self._command(accounts or {}),
            log.with_suffix(".out"),
            directory=directory,
            environment={
                "ERL_LIBS": _erlang_libraries(),
                "ERL_INETRC": str(directory / "inetrc"),
                "ERL_CRASH_DUMP": "/dev/null",
                "EJABBERD_CONFIG_PATH": str(directory / "ejabberd.yml"),
                "EJABBERD_LOG_PATH": str(log),
                "ERL_DIST_PORT": str(_DISTRIBUTION_PORT),
                "HOME": str(directory),
            },
            user=_USER,
        )

    @property
    def s2s_address(self) -> tuple[str, int]:
        return self.address, S2S_PORT

    async def start(self) -> None:
        """Write the configuration and start; returns when both ports accept."""
        (self.directory / "ejabberd.yml").write_text(self._configuration())
        (self.directory / "inetrc").write_text(self._inetrc or self._native_inetrc())
        self.process.start()
        await self.process.wait_for_port(self.address, C2S_PORT, within=40)
        await self.process.wait_for_port(self.address, S2S_PORT)
        # Accounts are registered by the same start script, after the listeners are up.
        ready = self.directory / "ready"
        await self.process.wait_for(ready.exists, "accounts registered", 20)

    async def stop(self) -> None:
        """Stop the Erlang machine in order (TERM runs init:stop/0)."""
        await self.process.stop()
        (self.directory / "ready").unlink(missing_ok=True)

    async def restart(self) -> None:
        """Stop as the service manager would, and start again."""
        await self.stop()
        await self.start()

    async def attach(self, lines: str, inetrc: str, listener: str = "") -> None:
        """Put the lines of `fedgate attach ejabberd` into both files and restart ("" detaches).

        `listener`: an entry of the list `listen:`, for components.
        """
        self._lines, self._inetrc, self._listener = lines, inetrc, listener
        if self.process.is_running:
            await self.restart()

    def _configuration(self) -> str:
        return _CONFIGURATION.format(
            domain=self.domain,
            rooms=self.rooms,
            directory=self.directory,
            address=self.address,
            c2s=C2S_PORT,
            s2s=S2S_PORT,
            log_level=self._log_level,
            components=self._component_listener() + self._listener,
            trust=self._lines or f"s2s_cafile: {self.directory}/trust.pem",
        )

    def _component_listener(self) -> str:
        if not self.components:
            return ""
        hosts = ", ".join(f'"{d}": {{password: "{s}"}}' for d, s in self.components.items())
        # Without global_routes: a connection gets what is for its own domain, not for any of these.
        return (
            f'  - {{port: {COMPONENT_PORT}, ip: "{self.address}", module: ejabberd_service, '
            f"global_routes: false, max_stanza_size: 524288, hosts: {{{hosts}}}}}\n"
        )

    def _native_inetrc(self) -> str:
        address, port = self._resolver
        return _INETRC.format(address=address.replace(".", ","), port=port)

    def _command(self, accounts: Mapping[str, str]) -> list[str]:
        registrations = "".join(
            f'ejabberd_auth:try_register(<<"{name}">>,<<"{self.domain}">>,<<"{password}">>),'
            for name, password in accounts.items()
        )
        ready = f'file:write_file("{self.directory}/ready", "")'
        interface = "{" + self.address.replace(".", ",") + "}"
        # As /usr/sbin/ejabberdctl foreground, without epmd: two stages must not share a registry.
        return [
            *("erl", "-noinput", "+K", "true", "-sname", f"ejabberd{id(self):x}@localhost"),
            *("-start_epmd", "false", "-erl_epmd_port", str(_DISTRIBUTION_PORT)),
            *("-kernel", "inet_dist_use_interface", interface),
            *("-mnesia", "dir", f'"{self.directory}/database"'),
            *("-s", "ejabberd", "-eval", f"{registrations}{ready}."),
        ]

    def _prepare(self, certificate: KeyPair, trust: Path) -> None:
        self.directory.mkdir(parents=True)
        pem = self.directory / "certificate.pem"
        pem.write_bytes(certificate.key.read_bytes() + certificate.certificate.read_bytes())
        shutil.copyfile(trust, self.directory / "trust.pem")
        self.log.touch()
        give_to(_USER, [self.directory, self.log])


def _erlang_libraries() -> str:
    """Where Debian keeps ejabberd's Erlang applications, whatever the machine's architecture."""
    for path in Path("/usr/lib").glob("*/ejabberd-*"):
        return str(path.parent)
    raise FileNotFoundError("/usr/lib/*/ejabberd-*: the ejabberd package is not installed")
