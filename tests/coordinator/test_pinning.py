import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator import pins
from coordinator.config import Config, Gateway
from coordinator.pinning import (
    AttachFailed,
    Reading,
    pin,
    prepare_state,
    read_keys,
    unreadable_for_others,
)

OLD, NEW = "0" * 64, "1" * 64


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        gateway=Gateway(domains=("a.example", "b.example"), state_dir=str(tmp_path / "s"))
    )


def test_the_state_directory_and_the_private_ca_are_made(config: Config) -> None:
    prepare_state(config)
    prepare_state(config)

    directory = Path(config.gateway.state_dir)
    assert {"ca.key", "ca.pem", "ca-bundle.pem"} <= {file.name for file in directory.iterdir()}


def test_another_users_directory_is_not_written_to(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(AttachFailed, match="run this as that user: sudo -u "):
        prepare_state(config)


def test_a_directory_that_cannot_be_made_is_one_line(config: Config, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file in its place")

    with pytest.raises(AttachFailed, match="File exists; create it for the user"):
        prepare_state(config)


def test_keys_are_pinned_and_missing_ones_told(config: Config) -> None:
    prepare_state(config)

    lines = pin(config, Reading({"a.example": NEW}, {"b.example": "Connection refused"}))

    assert pins.load(config.gateway.state_dir) == {"a.example": [NEW]}
    assert lines == [
        "no key read for b.example (Connection refused), nothing is pinned for it; "
        "start the local server and run this command again"
    ]


def test_a_changed_key_replaces_the_old_one_and_is_told(config: Config) -> None:
    prepare_state(config)
    state = config.gateway.state_dir
    pins.save(state, {"a.example": [OLD], "b.example": [OLD], "gone.example": [OLD]})

    lines = pin(config, Reading({"a.example": NEW}, {"b.example": "down"}))

    assert pins.load(state) == {"a.example": [NEW], "b.example": [OLD]}
    assert lines[0].startswith("the key of a.example has changed since the last attach: 0000")
    assert "its earlier pin is kept" in lines[1]
    assert len(lines) == 2


def test_the_reader_is_a_process_of_the_data_plane(tmp_path: Path) -> None:
    file = tmp_path / "fedgate.toml"
    file.write_text('[gateway]\ndomains = "a.example"\n[local]\nserver = "127.0.0.1:1"')

    reading = read_keys(str(file))

    assert reading.keys == {}
    assert reading.failures == {"a.example": "127.0.0.1:1: Connection refused"}


def test_a_reader_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttachFailed, match=r"the reader of keys failed \(fedgate: cannot read"):
        read_keys(str(tmp_path / "none.toml"))

    def slow(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("reader", 30)

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(AttachFailed, match="took over 30 s"):
        read_keys(str(tmp_path / "none.toml"))


@pytest.fixture
def public(tmp_path: Path) -> Callable[[], str | None]:
    """Whether others can read a file in a directory of our own under a passable root."""
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / "ca.pem").write_text("")
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)  # pytest's base directory is private
    tmp_path.chmod(0o755)
    return lambda: unreadable_for_others(directory / "ca.pem")


def test_the_local_servers_user_must_be_able_to_read_the_ca(
    public: Callable[[], str | None], tmp_path: Path
) -> None:
    directory = tmp_path / "state"
    (directory / "ca.pem").chmod(0o644)
    directory.chmod(0o711)
    assert public() is None

    directory.chmod(0o700)
    assert public() == f"the local server's user cannot enter {directory}; chmod a+x {directory}"

    directory.chmod(0o711)
    (directory / "ca.pem").chmod(0o640)
    assert public() == (
        f"{directory}/ca.pem is not readable for the local server's user; "
        f"chmod a+r {directory}/ca.pem"
    )

    (directory / "ca.pem").unlink()
    assert "No such file" in str(public())
