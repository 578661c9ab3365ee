"""`make demo`: two gateways, a Prosody and an ejabberd on loopback, and people who talk."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence

from loadtest.stage.addresses import ADMIN_PORT, C2S_PORT
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import StageError
from loadtest.stage.stage import CAPULET, ESCALUS, MONTAGUE, PASSWORD, Stage
from loadtest.stage.users import User
from loadtest.summary import Answers, console, summary

BURST = 500
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Demo:
    """The play in four scenes. What happens is printed when it happens, with its time."""

    def __init__(self) -> None:
        self._console = console()
        self._started_at = time.monotonic()

    async def run(self, *, keep: bool) -> None:
        """Play it; with `keep`, leave everything running until this task is cancelled."""
        self._title(f"Prosody ({CAPULET}), ejabberd ({MONTAGUE}), a gateway before each")
        try:
            stage = Stage()
            self._say("starting both, and a third server without a gateway, on loopback;")
            self._say(f"configurations and logs are in {stage.directory}")
            async with stage:
                await self._play(stage)
                self._console.print()
                self._console.print(summary([await _answers(each) for each in stage.gateways]))
                if keep:
                    await self._leave_running(stage)
        finally:
            self._say("everything stopped, nothing left behind")

    async def _play(self, stage: Stage) -> None:
        await self._attach(stage)
        self._title("They talk, through both gateways, over wss")
        juliet = await stage.login(f"juliet@{CAPULET}/balcony")
        romeo = await stage.login(f"romeo@{MONTAGUE}/orchard")
        await self._converse(
            (juliet, romeo, "Wherefore art thou Romeo?"),
            (romeo, juliet, "Call me but love 🌹"),
            (juliet, romeo, "How cam'st thou hither, tell me?"),
            (romeo, juliet, "With love's light wings."),
        )
        await self._burst(juliet, romeo)
        await self._natively(stage, juliet)
        await self._lose_a_worker(stage, juliet, romeo)
        # One may carry both directions.
        await stage.capulet_gateway.wait_session(MONTAGUE)
        await stage.montague_gateway.wait_session(CAPULET)
        for gateway in stage.gateways:
            await gateway.wait_settled()

    async def _attach(self, stage: Stage) -> None:
        self._say("servers are up; now the gateways, as an operator would do it")
        self._step("fedgate attach prosody: lines for prosody.cfg.lua; fedgate up")
        await stage.attach_capulet()
        self._step("fedgate attach ejabberd: lines for ejabberd.yml and inetrc; fedgate up")
        await stage.attach_montague()
        for gateway in stage.gateways:
            pids = " ".join(map(str, await gateway.worker_pids()))
            self._say(f"{gateway.name}: workers {pids}, status {_page(gateway)}")

    async def _converse(self, *lines: tuple[User, User, str]) -> None:
        for speaker, listener, line in lines:
            milliseconds = await _heard(speaker, listener, line)
            self._say(f"[bold]{speaker.bare_jid:>23}[/]  {line}  [dim]{milliseconds:.0f} ms[/]")

    async def _burst(self, juliet: User, romeo: User) -> None:
        started_at = time.monotonic()
        both = ((juliet, romeo), (romeo, juliet))
        for speaker, listener in both:
            for number in range(BURST):
                speaker.send(listener.jid, f"burst {number}")
        for _, listener in both:
            for number in range(BURST):
                got = await listener.inbox.take(lambda s: s.body.startswith("burst "))
                if got.body != f"burst {number}":
                    raise StageError(f"{listener.jid} got {got.body!r}, not number {number}")
        seconds = time.monotonic() - started_at
        self._say(f"{BURST} messages each way, all arrived, in order, in {seconds:.1f} s")

    async def _natively(self, stage: Stage, juliet: User) -> None:
        self._title(f"{ESCALUS} has no gateway: its stream passes through untouched")
        friar = await stage.login(f"friar@{ESCALUS}/cell")
        await self._converse(
            (juliet, friar, "Good even to my ghostly confessor."),
            (friar, juliet, "Romeo shall thank thee, daughter."),
        )

    async def _lose_a_worker(self, stage: Stage, juliet: User, romeo: User) -> None:
        gateway = stage.capulet_gateway
        self._title(f"Both workers of {gateway.name} are killed (kill -9)")
        for pid in await gateway.worker_pids():
            os.kill(pid, signal.SIGKILL)
            await gateway.wait_gone(pid)
        await gateway.wait_ready()
        self._say(f"started again: {' '.join(map(str, await gateway.worker_pids()))}")
        await self._converse(
            (juliet, romeo, "Art thou gone so, love, lord?"),
            (romeo, juliet, "Farewell, farewell, one kiss."),
        )

    async def _leave_running(self, stage: Stage) -> None:
        for server, name in ((stage.capulet, "nurse"), (stage.montague, "mercutio")):
            self._console.print(
                f"log in (no TLS): {name}@{server.domain}, {PASSWORD}, "
                f"at {server.address}:{C2S_PORT}"
            )
        self._console.print("running until Ctrl-C")
        await asyncio.Event().wait()

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold cyan]{text}[/]")

    def _step(self, text: str) -> None:
        self._say(f"[green]{text}[/]")

    def _say(self, text: str) -> None:
        elapsed = time.monotonic() - self._started_at
        self._console.print(f"[dim]{elapsed:5.1f} s[/]  {text}")


async def _heard(speaker: User, listener: User, line: str) -> float:
    """Say it, wait until it is heard, and return how many milliseconds that took."""
    started_at = time.monotonic()
    speaker.send(listener.jid, line)
    await listener.message(line)
    return (time.monotonic() - started_at) * 1000


async def _answers(gateway: Gateway) -> Answers:
    return Answers(
        name=gateway.name.removesuffix("-gateway"),
        page=_page(gateway),
        sessions=await gateway.api("sessions"),
        routes=await gateway.api("routes"),
        ledger=await gateway.ledger(),
    )


def _page(gateway: Gateway) -> str:
    return f"http://{gateway.address}:{ADMIN_PORT}/"


async def _main(*, keep: bool) -> None:
    task = asyncio.ensure_future(Demo().run(keep=keep))
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()

    def interrupt() -> None:
        # Once: whoever presses Ctrl-C twice would interrupt the cleaning up.
        if not interrupted.is_set():
            interrupted.set()
            print("\nstopping …", flush=True)
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all was seen, or until Ctrl-C; 1 when a part failed, which is then named."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_main(keep=options.keep))
    except (StageError, AssertionError, OSError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
