"""`python -m loadtest.chaos`: one fault after the other under load, then the table of runs."""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loadtest.chaos.faults import FAULTS, TIMES
from loadtest.chaos.flap import DOMAINS, FlapRun
from loadtest.chaos.report import Progress, console, flap_table, show_run, table, write_json
from loadtest.chaos.run import Run
from loadtest.chaos.scene import Scene
from loadtest.chaos.verdict import Outcome
from loadtest.stage.processes import StageError, until_interrupted

RATE = 1000.0
"""With twice as many two cores have no rest: stanzas are late by seconds without any fault."""
SECONDS = 8.0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m loadtest.chaos", description=__doc__)
    top.add_argument("--only", metavar="FAULT", action="append", choices=FAULTS, default=[])
    top.add_argument("--times", type=int, help="runs of each fault (default: 1; worker-killed 20)")
    top.add_argument("--rate", type=float, default=RATE, help="stanzas per second, each way")
    top.add_argument("--seconds", type=float, default=SECONDS, help="load after a fault is over")
    top.add_argument("--seed", default="1")
    top.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    top.add_argument("--keep", action="store_true", help="keep the stage's directory with its logs")
    top.add_argument(
        "--flap",
        metavar="DOMAINS",
        type=int,
        nargs="?",
        const=DOMAINS,
        help="instead, lose so many remote domains at once (default: 2000)",
    )
    top.add_argument("--list", action="store_true", help="name the faults and what they do")
    return top


async def play(options: argparse.Namespace, outcomes: list[Outcome]) -> None:
    """Play the runs that were asked for; outcomes are added as they come."""
    screen, progress = console(), Progress()
    runs = [
        (fault, f"{options.seed}.{number}")
        for fault in options.only or FAULTS
        for number in range(1, (options.times or TIMES.get(fault, 1)) + 1)
    ]
    progress.line("starting Prosody, ejabberd and two gateways")
    async with contextlib.AsyncExitStack() as stack:
        scene: Scene | None = None
        for at, (fault, seed) in enumerate(runs, 1):
            if scene is None:
                scene = await stack.enter_async_context(Scene(keep_logs=options.keep))
                if options.keep:
                    screen.print(f"logs in {scene.stage.logs}")
            progress.title = f"{at}/{len(runs)} {fault}"
            run = Run(
                scene,
                fault,
                seed,
                rate=options.rate,
                seconds=options.seconds,
                report=progress,
            )
            try:
                outcomes.append(await run.play())
            except (StageError, TimeoutError, OSError) as exc:
                run.outcome.broken.append(f"the scene broke: {exc!r}")
                outcomes.append(run.outcome)
                await stack.aclose()
                scene = None
            progress.clear()
            show_run(screen, outcomes[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every promise was kept in every run, 1 when not."""
    options = parser().parse_args(arguments)
    if options.list:
        for name, fault in FAULTS.items():
            print(f"{name:20} {fault.__doc__}")
        return 0
    if options.flap:
        return _flap(options)
    outcomes: list[Outcome] = []
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(until_interrupted(play(options, outcomes)))
    console().print(table(outcomes))
    if options.json:
        write_json(options.json, outcomes, rate=options.rate, seed=options.seed)
    return 1 if any(outcome.broken for outcome in outcomes) else 0


def _flap(options: argparse.Namespace) -> int:
    screen, progress = console(), Progress()
    run = FlapRun(options.flap, progress.line, keep_logs=options.keep)
    try:
        asyncio.run(until_interrupted(run.play()))
    except asyncio.CancelledError:
        return 1
    except StageError as exc:
        progress.clear()
        screen.print(f"[red]{exc}[/]", soft_wrap=True)
        return 1
    progress.clear()
    screen.print(flap_table(run.outcome))
    for text in run.outcome.broken:
        screen.print(f"  [red]{text}[/]")
    if options.json:
        options.json.write_text(json.dumps(asdict(run.outcome), indent=1) + "\n")
    return 1 if run.outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
