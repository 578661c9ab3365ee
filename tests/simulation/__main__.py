"""Run seeds: `python -m tests.simulation --seeds 1000`, or `--minutes 5`, or one with `--seed 42`.

One seed is shown as it happened, line by line in virtual seconds. Of many only those that fail are
named, with what failed; each can be run again alone. Exit code 1 if one failed.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice

from tests.simulation import faults
from tests.simulation.planted import BUGS, QUICK, SLOW
from tests.simulation.simulate import Outcome, simulate

BATCH = 10


def main(argv: list[str] | None = None) -> int:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="show this one")
    parser.add_argument("--seeds", type=int, default=1000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--minutes", type=float, help="run as many as that takes instead")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plant", action="store_true", help="hunt the bugs of planted.py instead")
    options = parser.parse_args(argv)
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings must come in the same order each time, or a seed does not replay.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    # What a dead process was at is thrown away in the middle: not worth a word.
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")
    if options.seed is not None:
        return _show(simulate(options.seed, tracing=True))
    if options.plant:
        return _hunt(options)
    return _run_many(options)


def _hunt(options: argparse.Namespace) -> int:
    """Each planted bug alone, seed after seed until it is found; exit code 1 if one is not."""
    context = multiprocessing.get_context("fork")
    bugs = [bug for bug in BUGS if options.seeds > QUICK or bug not in SLOW]
    work = [(bug, options.seeds) for bug in bugs]
    with context.Pool(options.processes, maxtasksperchild=1) as pool:
        found = pool.starmap(_hunt_one, work, chunksize=1)
    for bug, outcome in zip(bugs, found, strict=True):
        shown = f"seed {outcome.seed}: {_shown(outcome)}" if outcome else "NOT FOUND"
        print(f"{bug.__name__:24} {shown}"[:160])
    return 0 if all(found) else 1


def _hunt_one(bug: Callable[[], None], seeds: int) -> Outcome | None:
    gc.disable()
    bug()
    faults.FAULTS = {
        fault: weight for fault, weight in faults.FAULTS.items() if fault.__name__ in BUGS[bug]
    }
    for seed in range(seeds):
        outcome = simulate(seed)
        if outcome.failures:
            return outcome
    return None


def _show(outcome: Outcome) -> int:
    print("\n".join(outcome.trace))
    print(f"seed {outcome.seed}: {_shown(outcome)}; {outcome.summary}")
    return 1 if outcome.failures else 0


def _run_many(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    deadline = started + options.minutes * 60 if options.minutes else None
    batches = _batches(options.first, None if deadline else options.seeds)
    totals: Counter[str] = Counter()
    failed = count = 0
    context = multiprocessing.get_context("fork")
    with context.Pool(options.processes, maxtasksperchild=20) as pool:
        while some := list(islice(batches, 16 * options.processes)):
            for outcome in chain.from_iterable(pool.imap(_run_batch, some)):
                count += 1
                totals.update(outcome.summary)
                if outcome.failures:
                    failed += 1
                    print(f"seed {outcome.seed}: {_shown(outcome)}", flush=True)
            if deadline is not None and time.perf_counter() > deadline:
                break
    seconds = time.perf_counter() - started
    print(
        f"{count} seeds, {failed} failed; {count / seconds * 60:,.0f} seeds/minute; "
        f"{totals['stanzas']:,} stanzas, {totals['faults']:,} faults, "
        f"{totals['doubled']:,} doubled, {totals['bounced']:,} bounced, "
        f"{totals['window']:,} in the window"
    )
    return 1 if failed else 0


def _batches(first: int, count: int | None) -> Iterator[range]:
    start = first
    while count is None or start < first + count:
        end = start + BATCH if count is None else min(start + BATCH, first + count)
        yield range(start, end)
        start = end


def _run_batch(seeds: range) -> list[Outcome]:
    gc.disable()
    outcomes = [simulate(seed) for seed in seeds]
    gc.collect()
    return outcomes


def _shown(outcome: Outcome) -> str:
    if not outcome.failures:
        return "all is well"
    more = len(outcome.failures) - 1
    return outcome.failures[0] + (f" (and {more} more)" if more else "")


if __name__ == "__main__":
    sys.exit(main())
