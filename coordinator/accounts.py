"""The ledger: one mapped file of counters per worker incarnation, so that counts survive `kill -9`.

Rules of the file. The worker alone writes its counters, plain item assignments on a memoryview:

    account.outbound[ACCEPTED] += len(batch)
    account.outbound[IN_FLIGHT_RESENDABLE] += len(batch)

Both sides of a transition are written in the same loop turn, so that at any turn's end
accepted = acknowledged + bounced + dropped + returned + in flight. The coordinator reads the file
at any time (again, when it caught the middle of a turn) and closes the accounts of dead workers:
what is in flight becomes *returned* (the previous hop sends it again) or *dropped: worker-lost*.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from coordinator.processes import ProcessName, this_process, write_atomically

# Counters of one direction, as indices into `Account.outbound` and `Account.inbound`.
ACCEPTED = 0
ACKNOWLEDGED = 1
BOUNCED = 2
RETURNED = 3
REPLAYED = 4
IN_FLIGHT_RESENDABLE = 5  # the previous hop still holds it and sends it again if we die
IN_FLIGHT_OURS = 6  # the previous hop has forgotten it
ACK_SM = 7
ACK_XMPP_PING = 8
ACK_WEBSOCKET_PING = 9
ACK_STREAM_CLOSE = 10  # the hop closed its stream after ours, in order (RFC 6120 4.4)
DROPPED = 16  # the first of 16 counters, one per reason: use `drop_index(reason)`

DROP_REASONS = (
    "worker-lost",  # the worker died with it and nobody can send it again
    "type-error",  # an error is never answered with an error (RFC 6120 8.3.1)
    "iq-result",  # a result is never answered (RFC 6120 8.2.3)
    "presence-unavailable",
    "presence-probe",
    "no-sender",
    "bounce-undeliverable",  # the bounce itself found no way back
    "local-server-lost",
    "remote-lost",
    "duplicate",
    "shutdown",
    "other",
)

_DIRECTIONS = ("outbound", "inbound")
_WORDS = 32  # counters per direction
_HEADER = 8  # words: magic, pid, process start time, spare
_MAGIC = int.from_bytes(b"fedgate1", "little")
_SIZE = (_HEADER + 2 * _WORDS) * 8
_INDEX = {reason: DROPPED + at for at, reason in enumerate(DROP_REASONS)}
_CLOSED = "closed.json"


def drop_index(reason: str) -> int:
    """The counter of a drop reason; unknown reasons count as `other`."""
    return _INDEX.get(reason, _INDEX["other"])


class Account:
    """A worker's mapped counters: memoryviews of u64, `outbound` (to remotes) and `inbound`."""

    def __init__(self, path: Path, map: mmap.mmap) -> None:
        self.path = path
        self._map = map
        self._view = memoryview(map).cast("Q")
        self.outbound = self._view[_HEADER : _HEADER + _WORDS]
        self.inbound = self._view[_HEADER + _WORDS : _HEADER + 2 * _WORDS]

    @classmethod
    def create(cls, path: Path) -> "Account":
        """Create the account of this process, all counters zero. Raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            raise FileExistsError(path)
        name = this_process()
        header = b"".join(word.to_bytes(8, "little") for word in (_MAGIC, name.pid, name.started))
        write_atomically(path, header.ljust(_SIZE, b"\0"))
        return cls(path, _map(path))

    @classmethod
    def open(cls, path: Path) -> "Account":
        """Open an existing account. Raises OSError, or ValueError if the file is not an account."""
        account = cls(path, _map(path))
        if account._view[0] != _MAGIC:
            account.close()
            raise ValueError(f"{path} is not an account")
        return account

    @property
    def process(self) -> ProcessName:
        """The process that writes this account."""
        return ProcessName(self._view[1], self._view[2])

    def snapshot(self) -> dict[str, Any]:
        """Both directions as `/api/ledger` shows them."""
        words = self._view.tolist()
        return _shown(words[_HEADER:])

    def close(self) -> None:
        """Unmap the file; the counters stay in it."""
        self.outbound.release()
        self.inbound.release()
        self._view.release()
        self._map.close()


def account_path(state_dir: str | Path, worker: str) -> Path:
    """Where the account of a worker id lives."""
    return Path(state_dir) / "ledger" / (worker.replace("/", "_") + ".account")


def read_counters(state_dir: str | Path, worker: str) -> bytes:
    """All that a worker has counted, to be compared with what it had; b"" if there is nothing."""
    try:
        return account_path(state_dir, worker).read_bytes()
    except OSError:
        return b""


def balance(ledger: dict[str, Any]) -> int:
    """Accepted minus all that it became, of one direction: 0 unless a turn was caught half-way."""
    return int(
        ledger["accepted"]
        - ledger["acknowledged"]
        - ledger["bounced"]
        - sum(ledger["dropped"].values())
        - ledger["returned"]
        - ledger["in_flight"]
    )


def sum_accounts(directory: Path) -> dict[str, Any]:
    """The ledger over all workers ever: the closed accounts and those in use."""
    closed = _read_closed(directory)
    total = closed.totals
    for path in _accounts(directory, closed):
        words = _read_balanced(path)
        total = [a + b for a, b in zip(total, words, strict=True)]
    return _shown(total)


def close_dead_accounts(directory: Path) -> list[str]:
    """Close the account of each worker whose process is gone; returns the names of the files."""
    gone = []
    for path in list(_accounts(directory, _read_closed(directory))):
        try:
            account = Account.open(path)
        except (OSError, ValueError):
            path.replace(path.with_suffix(".damaged"))
            continue
        alive = account.process.is_alive()
        account.close()
        if not alive:
            close_account(path)
            gone.append(path.stem)
    return gone


def close_account(path: Path) -> None:
    """Fold a dead worker's account into the closed ones; may be repeated after any crash."""
    closed = _read_closed(path.parent)
    if path.name not in closed.folded and path.exists():
        words = _settled(_read_words(path))
        closed.totals = [a + b for a, b in zip(closed.totals, words, strict=True)]
        # The name stays listed until the file is gone: a crash in between counts nothing twice.
        closed.folded = [name for name in closed.folded if (path.parent / name).exists()]
        closed.folded.append(path.name)
        write_atomically(path.parent / _CLOSED, msgspec.json.encode(closed))
    path.unlink(missing_ok=True)


class _Closed(msgspec.Struct):
    totals: list[int]
    folded: list[str] = []


def _map(path: Path) -> mmap.mmap:
    with open(path, "r+b") as file:
        if os.fstat(file.fileno()).st_size != _SIZE:
            raise ValueError(f"{path} is not an account")
        return mmap.mmap(file.fileno(), _SIZE)


def _accounts(directory: Path, closed: _Closed) -> Iterator[Path]:
    return (path for path in sorted(directory.glob("*.account")) if path.name not in closed.folded)


def _read_closed(directory: Path) -> _Closed:
    try:
        closed = msgspec.json.decode((directory / _CLOSED).read_bytes(), type=_Closed)
    except FileNotFoundError:
        return _Closed([0] * 2 * _WORDS)
    if len(closed.totals) != 2 * _WORDS:
        raise ValueError(f"{directory / _CLOSED} has a wrong number of counters")
    return closed


def _read_words(path: Path) -> list[int]:
    return memoryview(path.read_bytes()).cast("Q").tolist()[_HEADER:]


def _read_balanced(path: Path) -> list[int]:
    """Read until no direction is caught half-way; one never balanced is shown as it is."""
    words = _read_words(path)
    for _ in range(200):
        if all(balance(direction) == 0 for direction in _shown(words).values()):
            break
        words = _read_words(path)
    return words


def _settled(words: list[int]) -> list[int]:
    """What a dead worker's counters come to: nothing stays in flight and nothing is unaccounted."""
    settled: list[int] = []
    for at, direction in enumerate(_DIRECTIONS):
        part = words[at * _WORDS : (at + 1) * _WORDS]
        part[RETURNED] += part[IN_FLIGHT_RESENDABLE]
        part[DROPPED] += part[IN_FLIGHT_OURS]
        part[IN_FLIGHT_RESENDABLE] = part[IN_FLIGHT_OURS] = 0
        # Killed in the middle of a turn: count the difference, as loss rather than as success.
        difference = balance(
            _shown([*words[: at * _WORDS], *part, *words[(at + 1) * _WORDS :]])[direction]
        )
        part[DROPPED if difference > 0 else ACCEPTED] += abs(difference)
        settled += part
    return settled


def _shown(words: list[int]) -> dict[str, Any]:
    return {
        direction: _shown_direction(words[at * _WORDS : (at + 1) * _WORDS])
        for at, direction in enumerate(_DIRECTIONS)
    }


def _shown_direction(words: list[int]) -> dict[str, Any]:
    return {
        "accepted": words[ACCEPTED],
        "acknowledged": words[ACKNOWLEDGED],
        "bounced": words[BOUNCED],
        "dropped": {reason: words[at] for reason, at in _INDEX.items() if words[at]},
        "returned": words[RETURNED],
        "in_flight": words[IN_FLIGHT_RESENDABLE] + words[IN_FLIGHT_OURS],
        "replayed": words[REPLAYED],
        "acknowledged_by": {
            "sm": words[ACK_SM],
            "xmpp-ping": words[ACK_XMPP_PING],
            "websocket-ping": words[ACK_WEBSOCKET_PING],
            "stream-close": words[ACK_STREAM_CLOSE],
        },
    }
