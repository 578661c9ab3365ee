"""Pinned keys of the local server: which key may speak for each gateway domain on the local legs.

`fedgate attach` writes them, workers read them. A key is the SHA-256 of its SubjectPublicKeyInfo in
DER, as 64 hexadecimal digits; several per domain let the local server change its key.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.processes import write_atomically

Pins = dict[str, list[str]]


class PinsUnreadable(Exception):
    """The file of pins is damaged or may not be read; one line with the next step."""


def path_of(state_dir: str) -> Path:
    """Where the pins of this state directory are kept."""
    return Path(state_dir) / "pins.json"


def key_digest(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate's public key, as pins are written."""
    public = certificate.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def is_pinned(pins: Pins, domain: str, certificate: x509.Certificate) -> bool:
    """Whether the certificate has a key that was pinned for this gateway domain."""
    return key_digest(certificate) in pins.get(domain, ())


def load(state_dir: str) -> Pins:
    """Return {domain: [key, …]}; empty when nothing was pinned. Raises `PinsUnreadable`."""
    path = path_of(state_dir)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise PinsUnreadable(f"cannot read {path}: {exc.strerror}; run as fedgate's user") from exc
    try:
        table = json.loads(text)
    except ValueError as exc:
        raise PinsUnreadable(f"{path} is not JSON; remove it and run fedgate attach again") from exc
    if not _is_pins(table):
        raise PinsUnreadable(f"{path} holds no pins; remove it and run fedgate attach again")
    return {str(domain): list(keys) for domain, keys in table.items()}


def save(state_dir: str, pins: Mapping[str, list[str]]) -> None:
    """Replace the pins in one step; the file is readable by its owner only. Raises `OSError`."""
    text = json.dumps(pins, indent=1, sort_keys=True) + "\n"
    write_atomically(path_of(state_dir), text.encode())


def _is_pins(table: object) -> bool:
    return isinstance(table, dict) and all(
        isinstance(keys, list) and all(_is_key(key) for key in keys) for keys in table.values()
    )


def _is_key(key: object) -> bool:
    return isinstance(key, str) and len(key) == 64 and set(key) <= set("0123456789abcdef")
