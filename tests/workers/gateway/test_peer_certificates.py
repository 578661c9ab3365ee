"""What OpenSSL holds of a peer's certificates is given up at the end of the handshake."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from OpenSSL._util import lib

from tests.workers.gateway.wire_bench import mint
from workers.gateway.certificates import KeyPair
from workers.gateway.peer_certificates import parse_chain
from workers.gateway.tls import client_context, handshake, server_context
from workers.gateway.tls_engine import TLSEngine

SERVER = mint("gw.example")
CLIENT = mint("a.example")
VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]
KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def chain_of_three(kind: str) -> KeyPair:
    """A leaf below an intermediate below a root, all with keys of this kind."""
    keys = [KEYS[kind]() for _ in range(3)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{kind} {n}")]) for n in range(3)]
    now = datetime.now(UTC)
    chain = []
    for number in range(3):
        above = min(number + 1, 2)
        chain.append(
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[above])
            .public_key(keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=False)
            .sign(keys[above], None if kind == "Ed25519" else hashes.SHA256())
        )
    return KeyPair(tuple(chain), keys[0], frozenset({"a.example"}))


def shake_hands(
    client_pair: KeyPair, server_pair: KeyPair, version: int = SSL.TLS1_3_VERSION
) -> tuple[TLSEngine, TLSEngine]:
    context = client_context(client_pair)
    context.set_max_proto_version(version)
    client = TLSEngine(context, server=False, server_name="gw.example")
    server = TLSEngine(server_context(server_pair), server=True)
    handshake(client, server)
    return client, server


def exchange(one: TLSEngine, other: TLSEngine) -> None:
    for data in (b"x", b"y" * 40_000):
        one.send(data)
        assert other.receive(one.data_to_send()) == data
        other.send(data)
        assert one.receive(other.data_to_send()) == data


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KEYS)
def test_the_whole_chain_is_known_as_often_as_it_is_asked_for(kind: str, version: int) -> None:
    pair = chain_of_three(kind)

    client, server = shake_hands(pair, pair, version)

    for engine in (client, server):
        assert engine.peer_chain() == [*pair.chain]
    exchange(client, server)
    for engine in (client, server):
        assert engine.peer_chain() == [*pair.chain]


@pytest.mark.parametrize("version", VERSIONS)
def test_openssl_holds_no_certificate_of_the_peer(version: int) -> None:
    for engine in shake_hands(CLIENT, SERVER, version):
        connection = engine._connection
        held = [connection.get_peer_certificate(), *(connection.get_peer_cert_chain() or [])]
        held += connection.get_verified_chain() or []
        assert held
        for certificate in held:
            assert certificate is not None
            with pytest.raises(UnsupportedAlgorithm, match=r"1\.2$"):
                certificate.to_cryptography().public_key()


@pytest.mark.parametrize("version", VERSIONS)
def test_our_own_certificates_and_other_connections_keep_theirs(version: int) -> None:
    # The same pair at both ends of all: what is overwritten must be the peer's copy alone.
    client, server = TLSEngine(client_context(CLIENT), server=False), server_context(CLIENT)
    first, second = TLSEngine(server, server=True), TLSEngine(server, server=True)
    handshake(client, first)
    context = client_context(CLIENT)
    context.set_max_proto_version(version)
    other = TLSEngine(context, server=False)
    handshake(other, second)

    for engine in (client, first, other, second):
        assert engine.peer_chain() == [*CLIENT.chain]
        assert lib.SSL_get_certificate(engine._connection._ssl)
    assert [*CLIENT.chain] == list(map(x509.load_der_x509_certificate, map(_der, CLIENT.chain)))


@pytest.mark.parametrize("version", VERSIONS)
def test_both_ends_close_in_order(version: int) -> None:
    client, server = shake_hands(CLIENT, SERVER, version)
    exchange(client, server)

    client.shutdown()
    assert server.receive(client.data_to_send()) == b""
    assert server.peer_closed
    server.shutdown()
    assert client.receive(server.data_to_send()) == b""
    assert client.peer_closed


def test_nothing_is_left_that_openssl_would_take_for_an_error() -> None:
    shake_hands(CLIENT, SERVER)

    assert lib.ERR_peek_error() == 0


def test_a_chain_that_cannot_be_read_is_the_same_as_none() -> None:
    assert parse_chain((_der(CLIENT.chain[0]), b"\x30\x03\x02\x01\x01")) == []
    assert parse_chain(()) == []


# pyOpenSSL cannot renew keys (RFC 8446 §4.6.3): openssl's own tools do, told by K and k.


@pytest.mark.parametrize("letter", [b"K", b"k"])
def test_a_client_renews_the_keys(letter: bytes, tmp_path: Path) -> None:
    certificate, key = write(CLIENT, tmp_path)
    server = TLSEngine(server_context(SERVER), server=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        options = ["-connect", where, "-cert", certificate, "-key", key, "-cert_chain", certificate]
        with tool("s_client", *options) as process:
            listening.settimeout(10)
            sock, _ = listening.accept()
            with sock:
                sock.settimeout(10)
                renew(process, sock, server, letter)
    assert server.peer_chain() == [*CLIENT.chain]


@pytest.mark.parametrize("letter", [b"K", b"k"])
def test_a_server_renews_the_keys(letter: bytes, tmp_path: Path) -> None:
    certificate, key = write(SERVER, tmp_path)
    client = TLSEngine(client_context(CLIENT), server=False)
    options = ["-accept", "127.0.0.1:0", "-cert", certificate, "-key", key, "-Verify", "1"]
    with tool("s_server", *options, "-cert_chain", certificate) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith(b"ACCEPT 127"):
            assert line
        port = int(line.rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            client.handshake()
            sock.sendall(client.data_to_send())
            renew(process, sock, client, letter)
    assert client.peer_chain() == [*SERVER.chain]


def renew(
    process: "subprocess.Popen[bytes]", sock: socket.socket, engine: TLSEngine, letter: bytes
) -> None:
    """The tool renews its keys three times; in between both ends send."""
    assert process.stdin is not None and process.stdout is not None
    while not engine.established:
        engine.receive(sock.recv(65536))
        sock.sendall(engine.data_to_send())
    for turn in range(3):
        for said in (b"before %d\n" % turn, letter + b"\n", b"after %d\n" % turn):
            process.stdin.write(said)
            process.stdin.flush()
            got = b""
            if said[:1] != letter:
                while not got.endswith(said):
                    got += engine.receive(sock.recv(65536))
                engine.send(b"answer to " + said)
            else:
                assert engine.receive(sock.recv(65536)) == b""  # it is a record of its own
            answer = engine.data_to_send()
            # With K the tool wants new keys of us, too: they come before what we say next.
            is_renewed = letter == b"K" and said.startswith(b"after")
            assert len(answer) == (len(got) + 10 + 22 + 27 * is_renewed if said == got else 0)
            sock.sendall(answer)
    while not (line := process.stdout.readline()).endswith(b"answer to after 2\n"):
        assert line, "the tool has ended"


@contextlib.contextmanager
def tool(*arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(
        ["openssl", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def write(pair: KeyPair, directory: Path) -> tuple[str, str]:
    """PEM files of the chain and of the key."""
    files = directory / "chain.pem", directory / "key.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(b"".join(each.public_bytes(pem) for each in pair.chain))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(pair.key.private_bytes(pem, pkcs8, plain))
    return str(files[0]), str(files[1])


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
