import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator import pins
from tests.coordinator.pem import certificate

KEY = "ab" * 32


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    pins.save(str(tmp_path), {"capulet.example": [KEY]})

    assert pins.load(str(tmp_path)) == {"capulet.example": [KEY]}


def test_only_the_owner_may_read_the_pins(tmp_path: Path) -> None:
    pins.save(str(tmp_path), {})

    assert stat.S_IMODE(pins.path_of(str(tmp_path)).stat().st_mode) == 0o600


def test_nothing_pinned_is_no_error(tmp_path: Path) -> None:
    assert pins.load(str(tmp_path)) == {}


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", '{"a": "b"}', '{"a": ["zz"]}', '{"a": [1]}', f'{{"a": ["{KEY.upper()}"]}}'],
)
def test_a_damaged_file_is_never_taken_for_no_pins(tmp_path: Path, text: str) -> None:
    pins.path_of(str(tmp_path)).write_text(text)

    with pytest.raises(pins.PinsUnreadable, match="run fedgate attach again"):
        pins.load(str(tmp_path))


def test_an_unreadable_file_names_the_next_step(tmp_path: Path) -> None:
    pins.path_of(str(tmp_path)).mkdir()

    with pytest.raises(pins.PinsUnreadable, match="run as fedgate's user"):
        pins.load(str(tmp_path))


def test_a_key_is_the_digest_of_its_public_part() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    shown = certificate("capulet.example", key=key)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(spki).hexdigest()

    assert pins.key_digest(shown) == digest
    assert pins.is_pinned({"capulet.example": [KEY, digest]}, "capulet.example", shown)
    assert not pins.is_pinned({"capulet.example": [KEY]}, "capulet.example", shown)
    assert not pins.is_pinned({"capulet.example": [digest]}, "montague.example", shown)
