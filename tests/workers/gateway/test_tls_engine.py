import random
import socket
import subprocess

import pytest
from OpenSSL import SSL

from tests.workers.gateway.wire_bench import mint
from workers.gateway.tls import client_context, handshake, server_context
from workers.gateway.tls_engine import TLSEngine, TLSFailed

SERVER = mint("gw.example")
CLIENT = mint("a.example")


def engines(version: int | None = None, *, presents: bool = True) -> tuple[TLSEngine, TLSEngine]:
    context = client_context(CLIENT if presents else None)
    if version is not None:
        context.set_max_proto_version(version)
    client = TLSEngine(context, server=False, server_name="gw.example")
    server = TLSEngine(server_context(SERVER), server=True)
    handshake(client, server)
    return client, server


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_both_sides_see_the_whole_chain_of_the_other(version: int) -> None:
    client, server = engines(version)

    assert client.peer_chain() == [*SERVER.chain]
    assert server.peer_chain() == [*CLIENT.chain]
    assert client.summary().split()[0] == (
        "TLSv1.2" if version == SSL.TLS1_2_VERSION else "TLSv1.3"
    )


def test_a_client_without_certificate_has_an_empty_chain() -> None:
    _, server = engines(presents=False)

    assert server.established
    assert server.peer_chain() == []


@pytest.mark.parametrize("size", [1, 16384, 16385, 1_000_000])
def test_what_goes_in_comes_out_however_it_is_split(size: int) -> None:
    client, server = engines()
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    client.send(data)
    wire = client.data_to_send()
    received = b"".join(server.receive(wire[at : at + 7001]) for at in range(0, len(wire), 7001))

    assert received == data


def test_writes_leave_in_full_records() -> None:
    client, _ = engines()

    client.send(b"x" * 65536)

    overhead = len(client.data_to_send()) - 65536
    assert overhead <= 4 * 22


def test_close_notify_ends_what_is_read_but_not_what_is_written() -> None:
    client, server = engines()
    client.send(b"last")
    client.shutdown()

    assert server.receive(client.data_to_send()) == b"last"
    assert server.peer_closed

    server.send(b"answer")
    assert client.receive(server.data_to_send()) == b"answer"


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x04\x0e\0\0\0", b"\0" * 64]
)
def test_garbage_instead_of_a_handshake_fails_with_a_reason(garbage: bytes) -> None:
    server = TLSEngine(server_context(SERVER), server=True)

    with pytest.raises(TLSFailed, match=r"\w+"):
        server.receive(garbage)


def test_a_changed_record_fails_and_an_alert_is_ready_to_send() -> None:
    client, server = engines()
    client.send(b"data")
    wire = bytearray(client.data_to_send())
    wire[-1] ^= 1

    with pytest.raises(TLSFailed):
        server.receive(bytes(wire))

    assert server.data_to_send()


def test_old_protocol_versions_are_refused() -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")

    with pytest.raises(TLSFailed):
        handshake(TLSEngine(context, server=False), TLSEngine(server_context(SERVER), server=True))


def test_the_handshake_is_never_renegotiated() -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client, server = (
        TLSEngine(context, server=False),
        TLSEngine(server_context(SERVER), server=True),
    )
    handshake(client, server)

    client._connection.renegotiate()
    with pytest.raises(SSL.WantReadError):
        client._connection.do_handshake()
    client._collect()
    server.receive(client.data_to_send())
    with pytest.raises(TLSFailed, match="no renegotiation"):
        client.receive(server.data_to_send())

    assert server._connection.total_renegotiations() == 0


def test_a_session_is_never_resumed() -> None:
    context = client_context(CLIENT)
    first = TLSEngine(context, server=False)
    handshake(first, TLSEngine(server_context(SERVER), server=True))
    session = first._connection.get_session()
    assert session is not None
    second, server = (
        TLSEngine(context, server=False),
        TLSEngine(server_context(SERVER), server=True),
    )
    second._connection.set_session(session)

    handshake(second, server)

    assert server.peer_chain() == [*CLIENT.chain]


def test_the_sizes_of_several_records_are_told() -> None:
    client, server = engines()
    client.send(b"x" * 20000)
    client.send(b"y")

    assert server.receive(client.data_to_send()) == b"x" * 20000 + b"y"
    assert server.record_sizes == (16384, 3616, 1)

    client.send(b"z")
    server.receive(client.data_to_send())
    assert server.record_sizes == ()


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_however_both_ways_are_cut_from_the_first_byte_on(seed: int) -> None:
    """Data right behind the handshake, halves of records, several records in one read."""
    choose = random.Random(seed)
    context = client_context(CLIENT)
    if seed % 3 == 0:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    engines = TLSEngine(context, server=False), TLSEngine(server_context(SERVER), server=True)
    engines[0].handshake()
    sent, wire, got = [b"", b""], [b"", b""], [b"", b""]
    for turn in range(80):
        side = choose.randrange(2)
        engine, other = engines[side], engines[1 - side]
        if engine.established and choose.random() < 0.5:
            data = choose.randbytes(choose.choice([1, 300, 16384, 16385, 40000]))
            engine.send(data)
            sent[side] += data
        wire[side] += engine.data_to_send()
        count = len(wire[side]) if turn >= 70 else choose.randint(0, len(wire[side]))
        got[1 - side] += other.receive(wire[side][:count])
        wire[side] = wire[side][count:]
    for side in (0, 1, 0, 1):
        got[1 - side] += engines[1 - side].receive(wire[side] + engines[side].data_to_send())
        wire[side] = b""

    assert [got[1], got[0]] == sent
    assert min(map(len, sent)) > 0


def test_a_peer_may_ask_for_small_records() -> None:
    # RFC 6066 §4; pyOpenSSL's contexts offer no way to ask for it.
    data = random.randbytes(100_000)
    server = TLSEngine(server_context(SERVER), server=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        client = subprocess.Popen(
            ["openssl", "s_client", "-quiet", "-maxfraglen", "512", "-connect", where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        listening.settimeout(10)
        sock, _ = listening.accept()
    with client, sock:
        sock.settimeout(10)
        while not server.established:
            server.receive(sock.recv(65536))
            sock.sendall(server.data_to_send())
        server.send(data)
        server.shutdown()
        sock.sendall(server.data_to_send())
        received, _ = client.communicate(timeout=10)

    assert received == data


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_an_engine_shrinks_at_any_byte(version: int) -> None:
    client, server = engines(version)
    for size in (1, 100, 5000):
        for step in (1, 4, 5, 6, 700, 4099):
            client.send(b"x" * size)
            wire = client.data_to_send()
            received = b""
            for at in range(0, len(wire), step):
                received += server.receive(wire[at : at + step])
                server._is_swollen = True
                server.shrink()
                assert not server._is_swollen
            assert received == b"x" * size
    server.send(b"y" * 100_000)
    server.shrink()
    assert client.receive(server.data_to_send()) == b"y" * 100_000
