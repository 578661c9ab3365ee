# ruff: noqa: RUF009 (option() returns a dataclass field, made once per declaration)
"""Every option of fedgate, declared once: name, type, default, help, kind of value.

The declarations are all that the loader (configfile.py), the printer (configtext.py) and the
example file know about an option: add one here and it is read, checked, printed and documented.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "",  # any value of the type
    "address",  # host:port
    "address-or-path",  # host:port, or the path of a unix socket
    "address-or-off",  # host:port, or ''
    "domain",  # normalised to A-labels
    "directory",  # a path, relative ones are resolved against the file's directory
    "file",
    "trust",  # a PEM file, or the word 'system'
    "network",  # CIDR
    "resolver",  # an IP address, with a port or without
    "secret",  # never printed
    "redis-url",
    "wss-url",
    "url-path",
    "header",  # the name of an HTTP header
]


def option(
    default: Any, help: str, *, kind: Kind = "", choices: tuple[str, ...] = (), least: float = 0
) -> Any:
    """Declare an option.

    `default` (a callable makes a fresh one), one line of `help`, the `kind` of its text, the
    `choices` it is limited to, and the `least` value of a number.
    """
    metadata = {"help": help, "kind": kind, "choices": choices, "least": least}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    domains: tuple[str, ...] = option((), "domains of the local server (required)", kind="domain")
    name: str = option("", "name of this gateway; default: the host name")
    workers: int = option(0, "worker processes; 0: one per CPU")
    state_dir: str = option(
        "/var/lib/fedgate", "private CA, pins, embedded Redis, sockets", kind="directory"
    )
    drain_timeout: float = option(30.0, "seconds a drain may take before sessions are cut")
    hang_timeout: float = option(
        5.0, "seconds without a sign of life after which a worker is killed; 0: never"
    )
    max_worker_rss: int = option(
        1073741824, "bytes of memory from which on a worker is replaced by a new one; 0: never"
    )
    max_names: int = option(
        1000000, "XML names in a worker's memory from which on it is replaced; 0: never"
    )
    log_level: str = option(
        "info", "debug, info, warning or error", choices=("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    certificate: str = option("", "PEM file: leaf first, then intermediates", kind="file")
    key: str = option("", "PEM file: the private key of the leaf", kind="file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    pairs: tuple[Pair, ...] = option(
        (), "certificate and key files, matched to domains by their names"
    )
    directories: tuple[str, ...] = option(
        (), "certbot's live/ or Prosody's certs/", kind="directory"
    )
    trust: str = option(
        "system", "'system' or a PEM bundle of certificate authorities", kind="trust"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocket:
    listen: tuple[str, ...] = option(
        ("[::]:443",), "addresses of the public wss listener", kind="address"
    )
    path: str = option("/xmpp-s2s", "path of the s2s endpoint", kind="url-path")
    tls: bool = option(
        True, "false: behind TLS-terminating HTTPS proxies; only trusted_proxies may connect"
    )
    public_url: str = option(
        "", "what host-meta publishes; default: wss://<first domain><path>", kind="wss-url"
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        "CIDRs of proxies: the PROXY protocol, X-Forwarded-For and the header below count only "
        "from these",
        kind="network",
    )
    client_certificate_header: str = option(
        "",
        "header with the peer's certificate: Client-Cert (RFC 9440), X-Forwarded-Tls-Client-Cert "
        "(Traefik's format), any other name: PEM in URL escapes (nginx)",
        kind="header",
    )
    allow_unmasked: tuple[str, ...] = option(
        (), "CIDRs of PeerTube peers that send unmasked frames", kind="network"
    )
    bidi: bool = option(True, "use one session for both directions where the peer does (XEP-0288)")
    resume: int = option(
        300, "seconds for which a lost session may be resumed (XEP-0198); 0: never", least=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    attach: str = option("s2s", "'s2s' or 'component'", choices=("s2s", "component"))
    server: str | dict[str, str] = option(
        "127.0.0.1:5269", "the local server's s2s port; or a table by domain", kind="address"
    )
    listen: str = option(
        "127.0.0.1:5271", "one port for all workers, towards the local server", kind="address"
    )
    advertise: str = option("localhost.", "what steering's SRV records name")
    dns: str = option(
        "127.0.0.1:5053", "address of the steering DNS server; '' = off", kind="address-or-off"
    )
    dns_clients: tuple[str, ...] = option(
        (),
        "CIDRs that steering answers to; always: this machine and the hosts of local.server",
        kind="network",
    )
    upstream_dns: tuple[str, ...] = option(
        (), "resolvers asked for all else; default: the system's", kind="resolver"
    )
    carry: str = option(
        "discovered",
        "'discovered', or 'listed': only domains under [remote]",
        choices=("discovered", "listed"),
    )
    authenticate: str = option(
        "key", "'key'; 'none' only for tests and closed networks", choices=("key", "none")
    )
    secret: str = option("", "component secret", kind="secret")

    def server_for(self, domain: str) -> str:
        """The address of the local server that serves one of our domains, as `host:port`."""
        if isinstance(self.server, str):
            return self.server
        return self.server.get(domain) or self.server["*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    url: str = option("", "wss URL; discovery is skipped when given", kind="wss-url")
    auth: tuple[str, ...] = option(
        ("external", "dialback"),
        "accepted ways to authenticate; 'dialback-with-cert': only with a good certificate, too",
        choices=("external", "dialback", "dialback-with-cert"),
    )
    trust: str = option("", "PEM bundle for this domain; default: certificates.trust", kind="trust")
    block: bool = option(False, "refuse all traffic with this domain")

    @property
    def dialback(self) -> bool:
        """Whether dialback is of any use, with a certificate or without."""
        return "dialback" in self.auth or "dialback-with-cert" in self.auth


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    url: str = option(
        "",
        "'' = embedded; redis://, rediss://, redis+sentinel://, redis+cluster://",
        kind="redis-url",
    )
    allow_insecure: bool = option(
        False, "true: a Redis on another machine may do without TLS, or without a password"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    name: str = option("fedgate", "key prefix in Redis")
    secret_file: str = option(
        "", "shared by all machines: dialback secret, private CA", kind="file"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    max_bytes: int = option(67108864, "bound of a worker's journal in bytes", least=65536)
    max_age: float = option(60.0, "seconds a stanza may wait in the journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    listen: str = option(
        "127.0.0.1:5290", "address of the admin API, or a unix socket path", kind="address-or-path"
    )
    allow_remote: bool = option(False, "true: listen may be a public or wildcard address")
    names: tuple[str, ...] = option(
        (), "names that browsers and scrapers may ask for it, beside addresses", kind="domain"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    allow_networks: tuple[str, ...] = option(
        (), "CIDRs of private networks that targets may be in", kind="network"
    )
    timeout: float = option(8.0, "seconds one discovery may take", least=0.1)
    ttl: int = option(3600, "seconds a host-meta without a ttl is kept")
    native_ttl: int = option(300, "seconds a domain without wss counts as native")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    stanza_bytes: int = option(262144, "largest stanza, advertised by XEP-0478", least=10000)
    preauth_bytes: int = option(8192, "largest element before authentication", least=1024)
    preauth_elements: int = option(32, "most XML elements in one before authentication", least=8)
    depth: int = option(64, "deepest nesting of a stanza", least=8)
    elements: int = option(10000, "most XML elements in a stanza", least=32)
    attributes: int = option(
        128, "most attributes, and most namespace declarations, of one element", least=32
    )
    name_bytes: int = option(1024, "longest name of an element or attribute", least=256)
    queue_bytes: int = option(8388608, "bytes that may wait for one domain pair", least=65536)
    connect_timeout: float = option(10.0, "seconds to open and authenticate a session", least=0.1)
    connects: int = option(
        64, "outbound sessions of a worker that are being opened at the same moment", least=1
    )
    idle_timeout: float = option(300.0, "seconds an unused outbound session is kept", least=1)
    ping_interval: float = option(25.0, "seconds between WebSocket pings", least=1)
    unauthenticated: int = option(
        1000, "public connections of a worker that have proved no domain yet", least=1
    )
    unauthenticated_per_address: int = option(
        100, "of these, from one IPv4 address or IPv6 /64", least=1
    )
    resend_timeout: float = option(20.0, "seconds queued stanzas wait for a lost next hop")
    authentication_timeout: float = option(
        30.0, "seconds in which a stream must be authenticated", least=0.1
    )
    stanza_timeout: float = option(
        60.0, "seconds in which a stanza must be complete once it has begun", least=0.1
    )
    connections_per_address: int = option(
        5000, "public connections to a worker from one IPv4 address or IPv6 /64", least=1
    )
    handshakes_per_address: int = option(
        3000, "of these, opened within a minute; 0: any number", least=0
    )
    sessions_per_domain: int = option(
        200, "sessions that one remote domain may have opened to a worker", least=1
    )
    bytes_per_second: int = option(
        33554432, "bytes read per second from the sessions of one remote owner; 0: any number"
    )
    stanzas_per_second: int = option(
        10000, "stanzas read per second from the sessions of one remote owner; 0: any number"
    )
    names_per_hour: int = option(
        20000, "new XML names read per hour from the sessions of one remote owner; 0: any number"
    )
    queues_bytes: int = option(
        268435456,
        "bytes that may wait for all domain pairs of a worker; beyond it each may have less",
        least=65536,
    )


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

    def become(self, newer: "Config") -> None:
        """Take the values of another one, for parts that hold this one and read it when needed."""
        for name in self.__slots__:
            object.__setattr__(self, name, getattr(newer, name))

    def remote_for(self, domain: str) -> Remote:
        """The policy for a remote domain: its own table, else '*', else the defaults.

        With components a domain without a table is blocked: it has no stream to the local server.
        """
        if self.local.attach == "component" and domain not in self.remote:
            return Remote(block=True)
        return self.remote.get(domain) or self.remote.get("*") or Remote()

    def trust_for(self, domain: str) -> str:
        """The bundle that a remote domain's certificates are verified with: a path, or "system"."""
        return self.remote_for(domain).trust or self.certificates.trust
