"""`python -m tests.fuzz`: every target under atheris for an equal share of the time.

Each runs in a process of its own with coverage of our code and of lxml's Python side; a finding is
written to a file and shown, and the run goes on with the next target. Exit status 1 if there was
one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_MAX_LENGTH = 4096


def run(name: str, seconds: int, folder: Path) -> tuple[int, bool]:
    """Executions of one target, and whether all went well. What it printed is in the folder."""
    corpus = folder / name
    corpus.mkdir()
    command = [sys.executable, "-P", "-m", "tests.fuzz", "--target", name, "--folder", str(folder)]
    command += ["--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    output = done.stdout + done.stderr
    (folder / f"{name}.log").write_text(output)
    found = _EXECUTIONS.search(output)
    return int(found[1]) if found else 0, done.returncode == 0 and found is not None


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["workers", "coordinator"]):
        from tests.fuzz.targets import CHECKS, SEEDS
    corpus = folder / name
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        *(f"-max_total_time={seconds}", f"-max_len={_MAX_LENGTH}", "-print_final_stats=1"),
        *("-timeout=10", "-rss_limit_mb=4096", "-verbosity=1"),
        *(f"-artifact_prefix={folder}/{name}-", str(corpus)),
    ]
    atheris.Setup([sys.argv[0], *arguments], CHECKS[name])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="for all targets together")
    parser.add_argument("--target", help="one target, in this process")
    parser.add_argument("--folder", type=Path, help="corpus and findings")
    parser.add_argument("--only", nargs="+", help="these targets")
    options = parser.parse_args()
    if options.target:
        fuzz(options.target, options.seconds, options.folder)
    from tests.fuzz.targets import CHECKS

    folder = options.folder or Path(tempfile.mkdtemp(prefix="fedgate-fuzz-"))
    names = options.only or list(CHECKS)
    share = max(1, options.seconds // len(names))
    print(f"{'target':<20}{'seconds':>8}{'executions':>12}   outcome")
    failed = []
    for name in names:
        executions, is_well = run(name, share, folder)
        if not is_well:
            failed.append(name)
        outcome = "well" if is_well else f"FOUND, see {folder}/{name}.log"
        print(f"{name:<20}{share:>8}{executions:>12}   {outcome}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
