"""`python -m loadtest.report show|compare|page`: reports of load tests, read again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.load.thresholds import InvalidThreshold, broken, parse_threshold
from loadtest.report.compare import compare
from loadtest.report.files import UnreadableReport, read_report, summary
from loadtest.report.page import page


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m loadtest.report", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print the summary of a run")
    show.add_argument("file", type=Path)
    show.add_argument("--fail-if", nargs="*", default=[], help="exit with 1 if one holds")
    both = commands.add_parser("compare", help="print what changed from one run to another")
    both.add_argument("first", type=Path)
    both.add_argument("second", type=Path)
    made = commands.add_parser("page", help="write the HTML page again")
    made.add_argument("file", type=Path)
    made.add_argument("html", type=Path)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """0: well; 1: a threshold holds; 2: the command line or a file is of no use."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "compare":
            print(compare(read_report(options.first), read_report(options.second)))
            return 0
        figures = read_report(options.file)
        if options.command == "page":
            options.html.write_text(page(figures))
            return 0
        print(summary(figures))
        thresholds = [parse_threshold(text) for text in options.fail_if]
        metrics = {"": figures["totals"], **figures["scenarios"]}
        failed = broken(thresholds, metrics)
    except (UnreadableReport, InvalidThreshold) as exc:
        print(exc, file=sys.stderr)
        return 2
    for text in failed:
        print(f"FAILED by {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
