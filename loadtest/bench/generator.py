"""A generator process, from the side of whoever gives it orders."""

import asyncio
import json
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.stage.authority import KeyPair
from loadtest.stage.processes import StageError

_MAX_LINE = 1 << 20


class Generator:
    """One `loadtest.bench.peer`, or another `module`; `start()` first, `stop()` last."""

    def __init__(
        self,
        name: str,
        identity: KeyPair,
        domains: Sequence[str],
        log: Path,
        *,
        manages: bool = True,
        tls: bool = True,
        module: str = "loadtest.bench.peer",
    ) -> None:
        self.name = name
        self._module = module
        self._words = [str(identity.certificate), str(identity.key), *domains]
        if not manages:
            self._words.append("--unmanaged")
        if not tls:
            self._words.append("--plain")
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", self._module, *self._words),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_MAX_LINE,
                start_new_session=True,
            )

    async def stop(self) -> None:
        """Its input ends, and so does it."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def ask(self, order: str, within: float = 150, **values: Any) -> dict[str, Any]:
        """Give an order and return the answer. Raises `StageError` when it fails."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"do": order, **values}).encode() + b"\n")
        try:
            line = await asyncio.wait_for(process.stdout.readline(), within)
        except TimeoutError:
            raise StageError(f"{self.name}: no answer to {order} in {within:g} s") from None
        answer: dict[str, Any] = json.loads(line or b'{"failed": "it has ended"}')
        if "failed" in answer:
            log = self._log.read_text(errors="replace")[-2000:]
            raise StageError(f"{self.name}: {order} failed: {answer['failed']}\n{log}")
        return answer

    async def times(self, what: str, path: Path) -> "array[float]":
        """When each stanza of the last run was due ("sent"), or "arrived"; `path` is scratch."""
        await self.ask(f"write_{what}", path=str(path))
        return _read(path)


def _read(path: Path) -> "array[float]":
    times = array("d")
    times.frombytes(path.read_bytes())
    path.unlink()
    return times
