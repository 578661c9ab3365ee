import dataclasses
import datetime
from pathlib import Path

import pytest
from cryptography import x509

from coordinator.certificates import (
    CertificateProblem,
    check_certificates,
    covers,
    find_pairs,
    load_pair,
    names_of,
)
from coordinator.config import Certificates, Config, Gateway, Pair, WebSocket
from tests.coordinator.pem import DAY, NOW, srv_name, write_pair, xmpp_addr


def config_of(*pairs: Pair, directories: tuple[str, ...] = ()) -> Config:
    return Config(
        gateway=Gateway(domains=("capulet.example",)),
        certificates=Certificates(pairs=pairs, directories=directories),
        websocket=WebSocket(public_url="wss://capulet.example/xmpp-s2s"),
    )


def told(config: Config) -> list[tuple[bool, str]]:
    return [(finding.is_error, str(finding)) for finding in check_certificates(config, NOW)]


def test_a_valid_pair_that_covers_the_domain_is_not_mentioned(tmp_path: Path) -> None:
    assert told(config_of(write_pair(tmp_path, "capulet.example"))) == []


def test_no_certificate_at_all_is_an_error_of_its_own() -> None:
    [(is_error, line)] = told(config_of())

    assert is_error
    assert line.endswith("set certificates.pairs or certificates.directories")


def test_behind_a_proxy_no_certificate_is_needed() -> None:
    config = config_of()
    config = dataclasses.replace(config, websocket=WebSocket(tls=False))

    [(is_error, line)] = told(config)

    assert not is_error
    assert "dialback" in line


def test_an_expired_certificate_is_an_error(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "capulet.example", until=NOW - datetime.timedelta(hours=1))

    assert told(config_of(pair)) == [
        (True, f"{pair.certificate} expired on 2026-11-22 11:00 UTC; renew it")
    ]


def test_a_certificate_from_the_future_points_to_the_clock(tmp_path: Path) -> None:
    [(is_error, line)] = told(config_of(write_pair(tmp_path, "capulet.example", since=NOW + DAY)))

    assert is_error
    assert "check the clock" in line


def test_an_expiry_soon_is_a_warning(tmp_path: Path) -> None:
    [(is_error, line)] = told(config_of(write_pair(tmp_path, "capulet.example", until=NOW + DAY)))

    assert not is_error
    assert "expires on 2026-11-23" in line


def test_a_domain_that_no_certificate_covers_is_an_error(tmp_path: Path) -> None:
    [(is_error, line)] = told(config_of(write_pair(tmp_path, "other.example")))

    assert is_error
    assert line.startswith("no usable certificate covers capulet.example;")


def test_a_delegated_host_that_is_covered_leaves_a_warning(tmp_path: Path) -> None:
    config = config_of(write_pair(tmp_path, "gw.hosting.example"))
    url = WebSocket(public_url="wss://gw.hosting.example:8443/xmpp-s2s")

    [(is_error, line)] = told(dataclasses.replace(config, websocket=url))

    assert not is_error
    assert "dialback" in line


def test_key_and_certificate_must_belong_together(tmp_path: Path) -> None:
    first, second = write_pair(tmp_path, "a.example"), write_pair(tmp_path, "a.example", file="b")
    mixed = Pair(certificate=first.certificate, key=second.key)

    with pytest.raises(
        CertificateProblem, match=r"b\.key is not the key of .*a\.crt; name the key"
    ):
        load_pair(mixed)


def test_a_key_with_a_password_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CertificateProblem, match="protected by a password; store the key without"):
        load_pair(write_pair(tmp_path, "a.example", password=b"secret"))


def test_files_that_are_missing_or_no_pem_are_named(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "a.example")
    with pytest.raises(CertificateProblem, match="cannot read the certificate /none: No such file"):
        load_pair(dataclasses.replace(pair, certificate="/none"))
    with pytest.raises(CertificateProblem, match="cannot read the key /none"):
        load_pair(dataclasses.replace(pair, key="/none"))
    with pytest.raises(CertificateProblem, match="holds no PEM certificate"):
        load_pair(dataclasses.replace(pair, certificate=pair.key))
    with pytest.raises(CertificateProblem, match="holds no PEM private key"):
        load_pair(dataclasses.replace(pair, key=pair.certificate))


def test_a_broken_pair_is_found_and_told_with_the_domain_it_leaves_bare(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "capulet.example")
    lines = told(config_of(dataclasses.replace(pair, key="/none")))

    assert [is_error for is_error, _ in lines] == [True, True]
    assert "cannot read the key /none" in lines[0][1]


def test_the_layouts_of_certbot_and_prosody_are_known(tmp_path: Path) -> None:
    live = tmp_path / "live" / "capulet.example"
    live.mkdir(parents=True)
    pair = write_pair(live, "capulet.example")
    Path(pair.certificate).rename(live / "fullchain.pem")
    Path(pair.key).rename(live / "privkey.pem")
    (tmp_path / "certs").mkdir()
    flat = write_pair(tmp_path / "certs", "rooms.example", file="rooms.example")
    (tmp_path / "certs" / "README").write_text("hello")
    directories = (str(tmp_path / "live"), str(tmp_path / "certs"))

    pairs = find_pairs(config_of(directories=directories))

    assert pairs == [
        Pair(certificate=str(live / "fullchain.pem"), key=str(live / "privkey.pem")),
        flat,
    ]
    assert told(config_of(directories=directories)) == []


def test_a_directory_that_is_none_is_an_error() -> None:
    [(is_error, line), *_] = told(config_of(directories=("/none",)))

    assert is_error
    assert "/none is not a directory" in line


def test_names_are_those_of_rfc_6120(tmp_path: Path) -> None:
    pair = write_pair(
        tmp_path,
        "Capulet.example",
        "*.wild.example",
        srv_name("_xmpp-server.srv.example"),
        srv_name("_xmpp-client.no.example"),
        xmpp_addr("addr.example"),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5"), b"\x30\x00"),
    )

    names = names_of(load_pair(pair))

    assert names >= {"capulet.example", "*.wild.example", "srv.example", "addr.example"}
    assert "no.example" not in names
    assert names_of(load_pair(write_pair(tmp_path))) == set()


def test_a_wildcard_covers_one_label() -> None:
    assert covers({"*.example"}, "capulet.example")
    assert not covers({"*.example"}, "rooms.capulet.example")
    assert not covers({"*.example"}, "example")
