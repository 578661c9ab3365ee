"""What every scene of the benchmark stands on: addresses, a directory, a DNS and an authority."""

import shutil
import tempfile
from pathlib import Path
from typing import Self

from loadtest.stage.addresses import Addresses
from loadtest.stage.authority import TestAuthority
from loadtest.stage.dns import StageDns

_DNS = 1


class Ground:
    """Use what is derived from it as `async with …() as scene:`."""

    def __init__(self) -> None:
        # Not below TMPDIR: paths of unix sockets, and Prosody's, must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="fedgate-bench-", dir="/tmp"))
        self.directory.chmod(0o755)  # servers run as accounts of their own
        self.addresses = Addresses()
        self.dns = StageDns(self.addresses.of(_DNS))
        self.authority = TestAuthority(self.directory / "ca")

    async def __aenter__(self) -> Self:
        try:
            self.dns.start()
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._end()

    async def _end(self) -> None:
        try:
            await self._stop()
        finally:
            self.dns.stop()
            self.addresses.release()
            shutil.rmtree(self.directory, ignore_errors=True)

    async def _start(self) -> None:
        """Start processes; DNS answers already."""
        raise NotImplementedError

    async def _stop(self) -> None:
        """End all processes that were started, of a scene that may be incomplete."""
        raise NotImplementedError
