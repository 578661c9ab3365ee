from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from coordinator.config import Certificates, Config, Pair
from tests.workers.gateway.wire_bench import mint, mint_pem
from workers.gateway.certificates import CertificateProblem, parse_pair
from workers.gateway.tls import (
    LeafContexts,
    OwnCertificates,
    client_context,
    handshake,
    self_test,
    server_context,
)
from workers.gateway.tls_engine import TLSEngine


def write_pair(folder: Path, stem: str, *names: str, days: float = 1) -> Pair:
    certificate_pem, key_pem = mint_pem(names, days=days)
    certificate, key = folder / f"{stem}.crt", folder / f"{stem}.key"
    certificate.write_bytes(certificate_pem)
    key.write_bytes(key_pem)
    return Pair(certificate=str(certificate), key=str(key))


def own(*pairs: Pair, directories: tuple[str, ...] = ()) -> OwnCertificates:
    return OwnCertificates(Config(certificates=Certificates(pairs=pairs, directories=directories)))


def presented(context: SSL.Context, server_name: str | None) -> str:
    """The first name of the certificate a listener shows."""
    client = TLSEngine(client_context(), server=False, server_name=server_name)
    handshake(client, TLSEngine(context, server=True))
    return client.peer_chain()[0].subject.rfc4514_string().removeprefix("CN=")


@pytest.mark.parametrize(
    "usages",
    [
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        [],
    ],
)
@pytest.mark.parametrize("days", [1, -1])
def test_any_client_certificate_is_seen_whatever_it_is_for(usages: list[object], days: int) -> None:
    pair = mint("a.example", usages=usages, days=days)

    assert self_test(pair) == [*pair.chain]


def test_intermediates_are_presented(tmp_path: Path) -> None:
    from workers.gateway.certificates import KeyPair

    leaf, intermediate = mint("a.example"), mint("ca.example")
    pair = KeyPair((leaf.chain[0], intermediate.chain[0]), leaf.key, leaf.names)

    assert self_test(pair) == [*pair.chain]


def test_a_listener_names_no_authorities() -> None:
    client = TLSEngine(client_context(), server=False)
    handshake(client, TLSEngine(server_context(mint("a.example")), server=True))

    assert client._connection.get_client_ca_list() == []


def test_sni_selects_the_certificate_and_unknown_names_get_the_listeners(tmp_path: Path) -> None:
    certificates = own(
        write_pair(tmp_path, "a", "a.example"), write_pair(tmp_path, "b", "b.example")
    )
    context = certificates.context_for("a.example")

    assert presented(context, "b.example") == "b.example"
    assert presented(context, "B.EXAMPLE") == "b.example"
    assert presented(context, "elsewhere.example") == "a.example"
    assert presented(context, None) == "a.example"


def test_reload_changes_what_a_running_listener_presents(tmp_path: Path) -> None:
    certificates = own(
        write_pair(tmp_path, "a", "a.example"), write_pair(tmp_path, "b", "b.example")
    )
    context = certificates.context_for("a.example")
    before = certificates.pair_for("a.example")
    write_pair(tmp_path, "a", "new.example", "a.example", days=5)

    certificates.reload()

    assert presented(context, None) == "new.example"
    assert presented(context, "a.example") == "new.example"
    after = certificates.pair_for("a.example")
    assert before is not None and after is not None and after.not_after > before.not_after
    assert certificates.not_after("a.example") == after.not_after


def test_a_failed_reload_changes_nothing(tmp_path: Path) -> None:
    certificates = own(write_pair(tmp_path, "a", "a.example"))
    context = certificates.context_for("a.example")
    (tmp_path / "a.crt").write_bytes(b"half written")

    with pytest.raises(CertificateProblem):
        certificates.reload()

    assert presented(context, None) == "a.example"


def test_a_listener_keeps_its_certificate_when_the_files_lose_the_name(tmp_path: Path) -> None:
    certificates = own(write_pair(tmp_path, "a", "a.example"))
    context = certificates.context_for("a.example")
    write_pair(tmp_path, "a", "other.example")

    certificates.reload()

    assert presented(context, None) == "a.example"


def test_directories_are_searched_and_their_problems_noted(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", "a.example")
    write_pair(tmp_path, "broken", "b.example")
    (tmp_path / "broken.key").write_bytes(b"no key")

    certificates = own(directories=(str(tmp_path),))

    assert certificates.pair_for("a.example") is not None
    assert certificates.pair_for("b.example") is None
    assert len(certificates.problems) == 1 and "broken.crt" in certificates.problems[0]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateProblem, match="absent is no directory"):
        own(directories=(str(tmp_path / "absent"),))


def test_a_domain_without_certificate(tmp_path: Path) -> None:
    certificates = own(write_pair(tmp_path, "a", "a.example"))

    assert certificates.client_context_for("b.example") is None
    assert certificates.not_after("b.example") is None
    assert certificates.expires_at(["b.example"]) is None
    first = certificates.not_after("a.example")
    assert first is not None
    assert certificates.expires_at(["a.example", "b.example"]) == first.timestamp()
    with pytest.raises(CertificateProblem, match=r"no certificate covers b\.example"):
        certificates.context_for("b.example")


def test_client_contexts_present_the_domains_certificate(tmp_path: Path) -> None:
    certificates = own(write_pair(tmp_path, "a", "a.example"))
    context = certificates.client_context_for("a.example")
    assert context is not None and context is certificates.client_context_for("a.example")
    server = TLSEngine(server_context(mint("gw.example")), server=True)

    handshake(TLSEngine(context, server=False), server)

    pair = certificates.pair_for("a.example")
    assert pair is not None and server.peer_chain() == [*pair.chain]


def test_a_leaf_is_presented_in_both_roles() -> None:
    leaves = LeafContexts()
    first, second = mint_pem(["r.example"]), mint_pem(["s.example"])
    client = TLSEngine(leaves.client("r.example", *first), server=False)
    server = TLSEngine(leaves.server("s.example", *second), server=True)

    handshake(client, server)

    assert server.peer_chain() == [*parse_pair(*first).chain]
    assert client.peer_chain() == [*parse_pair(*second).chain]


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_connection_with_a_leaf_goes_on_without_it(version: int) -> None:
    context = client_context(mint("local.example"))
    context.set_max_proto_version(version)
    client = TLSEngine(context, server=False)
    server = TLSEngine(LeafContexts().server("r.example", *mint_pem(["r.example"])), server=True)

    handshake(client, server)

    assert server._connection.get_certificate() is None
    for sender, receiver in ((client, server), (server, client)):
        sender.send(b"x" * 100_000)
        assert receiver.receive(sender.data_to_send()) == b"x" * 100_000


def test_leaves_share_their_contexts_and_nothing_else() -> None:
    leaves = LeafContexts()
    names = ["r.example", "s.example"]
    contexts = [leaves.server(name, *mint_pem([name])) for name in names]

    assert contexts[0].shared is contexts[1].shared
    engines = [TLSEngine(context, server=True) for context in contexts]
    for name, engine in zip(names, engines, strict=True):
        client = TLSEngine(client_context(), server=False)
        handshake(client, engine)
        assert client.peer_chain()[0].subject.rfc4514_string() == f"CN={name}"


def test_a_broken_leaf_is_named() -> None:
    with pytest.raises(CertificateProblem, match=r"leaf of r\.example"):
        LeafContexts().client("r.example", b"", b"")
