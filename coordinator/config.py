"""Every option of fedgate, declared once: name, type, default, help. Both planes read it from one TOML file."""

from dataclasses import dataclass, field
from typing import Any


def option(default: Any, help: str) -> Any:
    """Declare an option: its default (a callable makes a fresh one) and one line of help."""
    if callable(default):
        return field(default_factory=default, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    domains: tuple[str, ...] = option((), "domains of the local server (required)")
    name: str = option("", "name of this gateway; default: the host name")
    workers: int = option(0, "worker processes; 0: one per CPU")
    state_dir: str = option("/var/lib/fedgate", "private CA, pins, embedded Redis, sockets")
    drain_timeout: float = option(30.0, "seconds a drain may take before sessions are cut")
    log_level: str = option("info", "debug, info, warning or error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    certificate: str = option("", "PEM file: leaf first, then intermediates")
    key: str = option("", "PEM file: the private key of the leaf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    pairs: tuple[Pair, ...] = option((), "certificate and key files, matched to domains by their names")
    directories: tuple[str, ...] = option((), "certbot's live/ or Prosody's certs/")
    trust: str = option("system", "'system' or a PEM bundle of certificate authorities")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocket:
    listen: tuple[str, ...] = option(("[::]:443",), "addresses of the public wss listener")
    path: str = option("/xmpp-s2s", "path of the s2s endpoint")
    tls: bool = option(True, "false: behind a TLS-terminating proxy named in trusted_proxies")
    public_url: str = option("", "what host-meta publishes; default: wss://<first domain><path>")
    trusted_proxies: tuple[str, ...] = option((), "CIDRs whose forwarded headers count")
    client_certificate_header: str = option("", "for example Client-Cert (RFC 9440)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    attach: str = option("s2s", "'s2s' or 'component'")
    server: str | dict[str, str] = option("127.0.0.1:5269", "the local server's s2s port; or a table by domain")
    listen: str = option("127.0.0.1:5271", "one port for all workers, towards the local server")
    advertise: str = option("localhost.", "what steering's SRV records name")
    dns: str = option("127.0.0.1:5053", "address of the steering DNS server; '' = off")
    upstream_dns: tuple[str, ...] = option((), "resolvers asked for all else; default: the system's")
    carry: str = option("discovered", "'discovered', or 'listed': only domains under [remote]")
    authenticate: str = option("key", "'key'; 'none' only for tests and closed networks")
    secret: str = option("", "component secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    url: str = option("", "wss URL; discovery is skipped when given")
    auth: tuple[str, ...] = option(("external", "dialback"), "accepted ways to authenticate")
    trust: str = option("", "PEM bundle for this domain; default: certificates.trust")
    block: bool = option(False, "refuse all traffic with this domain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    url: str = option("", "'' = embedded; redis://, rediss://, redis+sentinel://, redis+cluster://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    name: str = option("fedgate", "key prefix in Redis")
    secret_file: str = option("", "shared by all machines: dialback secret, private CA")


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    max_bytes: int = option(67108864, "bound of a worker's journal in bytes")
    max_age: float = option(60.0, "seconds a stanza may wait in the journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    listen: str = option("127.0.0.1:5290", "address of the admin API, or a unix socket path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    allow_networks: tuple[str, ...] = option((), "CIDRs of private networks that targets may be in")
    timeout: float = option(8.0, "seconds one discovery may take")
    ttl: int = option(3600, "seconds a host-meta without a ttl is kept")
    native_ttl: int = option(300, "seconds a domain without wss counts as native")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    stanza_bytes: int = option(262144, "largest stanza, advertised by XEP-0478")
    preauth_bytes: int = option(8192, "largest element before authentication")
    preauth_elements: int = option(32, "most XML elements in one before authentication")
    depth: int = option(64, "deepest nesting of a stanza")
    elements: int = option(10000, "most XML elements in a stanza")
    queue_bytes: int = option(8388608, "bytes that may wait for one domain pair")
    connect_timeout: float = option(10.0, "seconds to open and authenticate a session")
    idle_timeout: float = option(300.0, "seconds an unused outbound session is kept")
    ping_interval: float = option(25.0, "seconds between WebSocket pings")
    resend_timeout: float = option(20.0, "seconds queued stanzas wait for a lost next hop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    gateway: Gateway = option(Gateway, "")
    certificates: Certificates = option(Certificates, "")
    websocket: WebSocket = option(WebSocket, "")
    local: Local = option(Local, "")
    remote: dict[str, Remote] = option(dict, "per domain; '*' is the default")
    redis: Redis = option(Redis, "")
    cluster: Cluster = option(Cluster, "")
    journal: Journal = option(Journal, "")
    admin: Admin = option(Admin, "")
    discovery: Discovery = option(Discovery, "")
    limits: Limits = option(Limits, "")

    def remote_for(self, domain: str) -> Remote:
        """The policy for a remote domain: its own table, else '*', else the defaults."""
        return self.remote.get(domain) or self.remote.get("*") or Remote()
