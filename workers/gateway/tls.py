"""TLS contexts: how we present ourselves, and that every certificate of the other side is seen.

No context here verifies anything: both roles accept any chain, and `identity.py` judges it after
the handshake, because one certificate may stand for a domain, an SRV name or a delegated host, and
because public CAs issue no clientAuth certificates any more.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL
from OpenSSL._util import lib

from coordinator.certificates import pairs_below
from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain
from workers.gateway.certificates import (
    CertificateProblem,
    KeyPair,
    best_pair,
    load_pair,
    parse_pair,
)
from workers.gateway.tls_engine import LeafContext, TLSEngine, TLSFailed

# Forward secrecy and AEAD only; TLS 1.3 suites are OpenSSL's default.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!eNULL:!PSK"
_LOCAL_GROUPS = b"X25519:P-256:P-384:P-521"


def _accept_any(
    _connection: SSL.Connection, _certificate: object, _error: int, _depth: int, _ok: int
) -> bool:
    return True


def _context(method: int, pair: KeyPair | None) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
    # An idle session then holds no 16 KiB record buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # A resumed session would not show its certificate again: identity is proved each time.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_cipher_list(_CIPHERS)
    context.set_verify(SSL.VERIFY_PEER, _accept_any)
    if pair is not None:
        context.use_certificate(pair.chain[0])
        for certificate in pair.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(pair.key)
    return context


def client_context(pair: KeyPair | None = None) -> SSL.Context:
    """For the connecting side; presents the pair if the server asks. Offers no ALPN."""
    return _context(SSL.TLS_CLIENT_METHOD, pair)


def server_context(pair: KeyPair) -> SSL.Context:
    """For the accepting side: asks for a certificate, takes any or none, names no authorities."""
    return _context(SSL.TLS_SERVER_METHOD, pair)


def handshake(client: TLSEngine, server: TLSEngine) -> None:
    """Run both sides of a handshake against each other in memory. Raises `TLSFailed`."""
    client.handshake()
    for _ in range(10):
        server.receive(client.data_to_send())
        client.receive(server.data_to_send())
        if client.established and server.established:
            return
    raise TLSFailed("the handshake does not come to an end")


def self_test(server_auth_only: KeyPair) -> list[x509.Certificate]:
    """Prove that a listener sees a serverAuth-only client certificate: returns the chain it saw.

    Raises `TLSFailed` when this OpenSSL refuses it: then EXTERNAL cannot be offered.
    """
    client = TLSEngine(client_context(server_auth_only), server=False)
    server = TLSEngine(server_context(server_auth_only), server=True)
    handshake(client, server)
    chain = server.peer_chain()
    if not chain or chain[0] != server_auth_only.chain[0]:
        raise TLSFailed("a client certificate was not visible after the handshake")
    return chain


class OwnCertificates:
    """The public identity of each gateway domain. `reload` reads the files again."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._pairs: list[KeyPair] = []
        self._listeners: dict[str, SSL.Context] = {}
        self._servers: dict[KeyPair, SSL.Context] = {}
        self._clients: dict[KeyPair, SSL.Context] = {}
        self.problems: list[str] = []
        self.reload()

    def reload(self) -> None:
        """Read all files again; sessions that are open keep what they have.

        Raises `CertificateProblem` for a configured pair that cannot be used, and changes nothing
        then; what is wrong inside a directory is only noted in `problems`.
        """
        settings = self._settings.certificates
        pairs = [load_pair(Path(pair.certificate), Path(pair.key)) for pair in settings.pairs]
        problems = []
        for directory in settings.directories:
            if not Path(directory).is_dir():
                raise CertificateProblem(
                    f"{directory} is no directory; correct certificates.directories"
                )
            for pair in pairs_below(Path(directory)):
                try:
                    pairs.append(load_pair(Path(pair.certificate), Path(pair.key)))
                except CertificateProblem as exc:
                    problems.append(str(exc))
        self._pairs, self.problems = pairs, problems
        self._servers.clear()
        self._clients.clear()

    def pair_for(self, domain: str) -> KeyPair | None:
        """The pair whose names cover the domain and which is valid longest; an exact name wins."""
        return best_pair(self._pairs, domain)

    def not_after(self, domain: str) -> datetime | None:
        """When the domain's certificate expires (UTC); None if it has none."""
        pair = self.pair_for(domain)
        return pair.not_after if pair is not None else None

    def expires_at(self, domains: Iterable[str]) -> float | None:
        """When the first of these domains' certificates expires (Unix time); None without any."""
        ends = [end for end in map(self.not_after, domains) if end is not None]
        return min(ends).timestamp() if ends else None

    def context_for(self, domain: str) -> SSL.Context:
        """For listeners: presents what SNI asks for, else the certificate of `domain`.

        The context stays right across `reload`. Raises `CertificateProblem` when there is no
        certificate for the domain.
        """
        pair = self.pair_for(domain)
        if pair is None:
            raise CertificateProblem(
                f"no certificate covers {domain}; add one under [certificates]"
            )
        context = self._listeners.get(domain)
        if context is None:
            context = self._listeners[domain] = server_context(pair)
            context.set_tlsext_servername_callback(partial(self._select, default=domain))
        return context

    def client_context_for(self, domain: str) -> SSL.Context | None:
        """For connecting in the name of `domain`; None if it has no certificate (dialback then)."""
        pair = self.pair_for(domain)
        if pair is None:
            return None
        context = self._clients.get(pair)
        if context is None:
            context = self._clients[pair] = client_context(pair)
        return context

    def _select(self, connection: SSL.Connection, default: str) -> None:
        """Answer SNI; called without SNI as well. Unknown names get the default."""
        try:
            name = normalise_domain((connection.get_servername() or b"").decode("ascii"))
        except (InvalidDomain, UnicodeDecodeError):
            name = default
        pair = self.pair_for(name) or self.pair_for(default)
        if pair is None:
            return  # gone since a reload: what the listener began with is the best there is
        context = self._servers.get(pair)
        if context is None:
            context = self._servers[pair] = server_context(pair)
        connection.set_context(context)


class LeafContexts:
    """Contexts for certificates that come as PEM text (minted leaves): the local legs."""

    def __init__(self) -> None:
        self._server, self._client = _context(SSL.TLS_SERVER_METHOD, None), client_context()
        for context in (self._server, self._client):
            _use_classic_groups(context)

    def server(self, domain: str, certificate_pem: bytes, key_pem: bytes) -> LeafContext:
        """For answering as the domain. Raises `CertificateProblem`."""
        return self._leaf(self._server, domain, certificate_pem, key_pem)

    def client(self, domain: str, certificate_pem: bytes, key_pem: bytes) -> LeafContext:
        """For connecting as the domain. Raises `CertificateProblem`."""
        return self._leaf(self._client, domain, certificate_pem, key_pem)

    def _leaf(
        self, shared: SSL.Context, domain: str, certificate: bytes, key: bytes
    ) -> LeafContext:
        # Read anew for each connection, in 0.1 ms: kept, it would take 7 KiB a domain.
        return LeafContext(shared, parse_pair(certificate, key, f"leaf of {domain}"))


def _use_classic_groups(context: SSL.Context) -> None:
    """No ML-KEM, whose keys OpenSSL keeps as long as the connection: 7 to 9 KiB.

    For the local legs, which end in the operator's own network; stock servers of Debian 12 speak
    none at all.
    """
    if lib.SSL_CTX_set1_curves_list(context._context, _LOCAL_GROUPS) != 1:
        raise AssertionError("this OpenSSL does not know the groups that every TLS 1.2 has")
