"""The load test's own certificate authority: made on first use, kept in its directory.

Every remote domain gets a leaf of its own, in memory. All processes of a load test that share the
directory share the authority and the secret of dialback keys.
"""

import fcntl
import secrets
from pathlib import Path

from loadtest.stage.authority import KeyPair as FilePair
from loadtest.stage.authority import TestAuthority
from workers.gateway.certificates import KeyPair

DIRECTORY = Path("~/.cache/fedgate-loadtest").expanduser()
_SECRET_BYTES = 32


class LoadAuthority:
    """`bundle` is the PEM file that the server under test has to trust."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        secret = directory / "dialback.secret"
        # Processes of one load test start at the same moment.
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._authority = TestAuthority(directory, "fedgate load test CA", keep=True)
            if not secret.exists():
                secret.touch(0o600)
                secret.write_bytes(secrets.token_bytes(_SECRET_BYTES))
        self.dialback_secret = secret.read_bytes()
        self.bundle = self._authority.bundle

    def issue(self, *names: str) -> KeyPair:
        """A leaf with serverAuth alone, as public authorities issue them."""
        return self._authority.mint(*names)

    def issue_files(self, *names: str) -> FilePair:
        """The same as PEM files in the directory, for the server under test."""
        return self._authority.issue(*names)
