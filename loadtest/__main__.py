"""`python -m loadtest`: a gateway with its sink on loopback, and locust against it.

All other options are locust's (`locust --help`) and those of the load test, below, which locust's
own help leaves out. Without `--preset` it is `mixed`. The exit code is locust's: 0 if no threshold
holds.
"""

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.load.options import DEFAULT_PRESET, add_options, chosen_preset
from loadtest.rig import DOMAIN, Rig
from loadtest.stage.processes import StageError

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
FAIL_IF = ("lost>0", "doubled>0", "reordered>0", "unrefused>0")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtest",
        description=__doc__,
        epilog=_other_options(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--gateway-workers", type=int, default=1, help="worker processes it has")
    top.add_argument("--report", default="loadtest-report", help="stem of the report's files")
    top.add_argument("--keep", action="store_true", help="keep the directory with logs and state")
    return top


def _other_options() -> str:
    shown = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    add_options(shown)
    return shown.format_help()


def locust_command(rig: Rig, options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """How locust is started against the rig; what `rest` says comes last and wins."""
    command = [sys.executable, "-P", "-m", "locust", "-f", str(LOCUSTFILE)]
    command += ["--headless", "--only-summary", "--progress"]
    command += ["--url", rig.url, "--target", DOMAIN, "--listen", rig.peers]
    command += ["--ca", str(rig.authority_directory), "--admin", rig.admin]
    command += ["--report", options.report, "--pids", " ".join(_pids(rig))]
    if not chosen_preset(rest):
        command += ["--preset", DEFAULT_PRESET]
    if "--fail-if" not in rest:
        command += ["--fail-if", *FAIL_IF]
    return [*command, *rest]


def _pids(rig: Rig) -> list[str]:
    pids = {"coordinator": rig.gateway.process.pid, "sink": rig.sink.pid}
    with contextlib.suppress(StageError):  # Redis is somebody else's
        pids["redis"] = rig.gateway.redis_pid()
    return [f"{name}={pid}" for name, pid in pids.items()]


async def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Start everything, run locust to its end, stop everything. Raises `StageError`."""
    rig = Rig(workers=options.gateway_workers)
    try:
        await rig.start()
        print(f"gateway at {rig.url}, status page at {rig.admin}/", flush=True)
        # A session of its own: what interrupts the terminal would reach locust twice.
        process = await asyncio.create_subprocess_exec(
            *locust_command(rig, options, rest), start_new_session=True
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Locust ends the test in order, and then we do.
            loop.add_signal_handler(number, _end, process)
        code = await process.wait()
    finally:
        await rig.stop()
        if options.keep:
            print(f"logs and state in {rig.directory}")
        else:
            shutil.rmtree(rig.directory, ignore_errors=True)
    return code


def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


def main(arguments: Sequence[str] | None = None) -> int:
    options, rest = parser().parse_known_args(arguments)
    try:
        code = asyncio.run(run(options, rest))
    except StageError as exc:
        print(exc, file=sys.stderr)
        return 1
    if Path(f"{options.report}.html").exists():
        print(f"report: {options.report}.html, {options.report}.json")
    return code


if __name__ == "__main__":
    sys.exit(main())
