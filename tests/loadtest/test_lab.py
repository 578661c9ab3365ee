from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates

from coordinator.certificates import load_pair, names_of
from coordinator.config import Pair
from loadtest import lab


def test_certificates_are_made_once_and_name_all_hosts(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "a.example", "b.example"]
    assert lab.main(arguments) == 0
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"trust.pem", "load"} | {
        f"{domain}.{kind}" for domain in ("a.example", "b.example") for kind in ("pem", "key")
    }
    assert len(load_pem_x509_certificates((tmp_path / "trust.pem").read_bytes())) == 2
    for domain in ("a.example", "b.example"):
        key = tmp_path / f"{domain}.key"
        leaf = load_pair(Pair(certificate=str(tmp_path / f"{domain}.pem"), key=str(key)))
        assert names_of(leaf) == {domain, f"conference.{domain}", f"gw.{domain}"}
        assert key.stat().st_mode & 0o777 == lab.KEY_MODE
    assert lab.main(arguments) == 0
    assert {path: path.read_bytes() for path in files} == files


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    assert lab.main([str(tmp_path / "file" / "lab"), "a.example"]) == 1
    assert "file" in capsys.readouterr().err
