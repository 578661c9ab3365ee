"""`make bench`, or `python -m loadtest.bench [--only PART[,PART…]] [--full] [--json FILE]`.

Real sockets, TLS on both legs, a real `fedgate up`: see `rig.py` for the scene and `flood.py` for
how a run is measured. CPU seconds are those of /proc/<pid>/stat, so what else runs on the machine
disturbs less than it would disturb stanzas per second; still, run it alone. While working on the
stanza path:

    make bench BENCH="--only outbound,inbound --repeats 5"

Exit code 0: measured, whether goals are reached or not; 1: a stanza is missing, or doubled, or the
ledger does not say so, or something did not come up.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.flood import LedgerWrong
from loadtest.bench.latency import latency
from loadtest.bench.machine import machine
from loadtest.bench.memory import memory
from loadtest.bench.parts import end_to_end, journal_share, parts
from loadtest.bench.plots import write_plots
from loadtest.bench.proxy import proxy
from loadtest.bench.report import Progress, console, goals, table, write_json
from loadtest.bench.row import Row
from loadtest.bench.run import Part, Run
from loadtest.bench.servers import servers
from loadtest.bench.sessions import sessions
from loadtest.bench.sizes import sizes
from loadtest.bench.throughput import inbound, journal, outbound
from loadtest.bench.workers import workers
from loadtest.stage.processes import StageError, until_interrupted

PARTS: dict[str, Part] = {
    "outbound": outbound,
    "inbound": inbound,
    "parts": parts,
    "journal": journal,
    "journal-share": journal_share,
    "latency": latency,
    "sessions": sessions,
    "memory": memory,
    "workers": workers,
    "sizes": sizes,
    "servers": servers,
    "xmpp-proxy": proxy,
}
DEFAULT_FILE = Path("bench-out/bench.json")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--only", type=_parts, metavar="PART,…", help=f"of: {', '.join(PARTS)}")
    top.add_argument("--full", action="store_true", help="the long runs at full length: an hour")
    top.add_argument("--repeats", type=int, default=Run.repeats)
    top.add_argument("--stanzas", type=int, default=Run.stanzas, help="of one repeat")
    top.add_argument("--json", type=Path, metavar="FILE", default=DEFAULT_FILE)
    return top


def _parts(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part {name!r}")
    return names


async def measure(
    names: Sequence[str], run: Run, rows: list[Row], seconds: dict[str, float]
) -> None:
    """Measure parts; rows, and the seconds they took, are added as they come.

    Raises `LedgerWrong`, `StageError`.
    """
    for name in names:
        run.say(name)
        begun = time.monotonic()
        async for row in PARTS[name](run):
            rows.append(row)
        seconds[name] = time.monotonic() - begun


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    progress = Progress()

    def say(text: str) -> None:
        progress(f"{time.monotonic() - begun:4.0f} s  {text}")

    run = Run(stanzas=options.stanzas, repeats=options.repeats, full=options.full, say=say)
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    here = machine()
    begun = time.monotonic()
    broken = ""
    try:
        names = options.only or list(PARTS)
        asyncio.run(until_interrupted(measure(names, run, rows, seconds)))
    except (LedgerWrong, StageError) as exc:
        broken = str(exc)
    except asyncio.CancelledError:
        broken = "interrupted"
    progress("")
    rows += end_to_end(rows)
    console().print(table(rows, here))
    write_json(options.json, rows, here, seconds)
    plots = write_plots(options.json.parent, rows, str(here))
    console().print("written:", *(str(path) for path in (options.json, *plots)), soft_wrap=True)
    console().print(goals(rows))
    if broken:
        console().print(f"[red]{broken}[/]", soft_wrap=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
