"""A bounded number of seeds; `make simulate` runs as many as one likes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.simulation.planted import QUICK

ROOT = Path(__file__).parents[2]
SEEDS = 100


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: it replaces clocks, and throws away half-done tasks."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_seeds_hold_every_promise() -> None:
    done = run("--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SEEDS} seeds, 0 failed" in done.stdout


def test_a_seed_replays_to_the_letter() -> None:
    first, second = run("--seed", "7"), run("--seed", "7")
    assert first.stdout == second.stdout
    assert "FAULT" in first.stdout and "seed 7: all is well" in first.stdout


def test_planted_bugs_are_found() -> None:
    done = run("--plant", "--seeds", str(QUICK))
    assert done.returncode == 0, done.stdout + done.stderr
