from pathlib import Path

from coordinator.certificates import load_pair, names_of
from coordinator.config import Pair
from loadtest import lab


def test_certificates_are_made_once_and_name_all_hosts(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "a.example", "b.example"]
    assert lab.main(arguments) == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"ca.pem", "a.example.pem", "a.example.key", "b.example.pem"} | {
        "b.example.key"
    }
    for domain in ("a.example", "b.example"):
        key = tmp_path / f"{domain}.key"
        leaf = load_pair(Pair(certificate=str(tmp_path / f"{domain}.pem"), key=str(key)))
        assert names_of(leaf) == {domain, f"conference.{domain}", f"gw.{domain}"}
        assert key.stat().st_mode & 0o777 == lab.KEY_MODE
    assert lab.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, capsys) -> None:
    assert lab.main([str(tmp_path / "absent"), "a.example"]) == 1
    assert "absent" in capsys.readouterr().err
