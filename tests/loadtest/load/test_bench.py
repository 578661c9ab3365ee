"""What one load process drives: that every driver does its work, not how fast."""

import re
import subprocess
import sys


def test_every_driver_has_a_line_with_its_cost() -> None:
    answer = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "loadtest.load.bench"),
            *("--domains", "2", "--seconds", "0.3", "--burst", "4", "--rate", "100"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    lines = dict(re.findall(r"^(locust|engine|websockets\.sync) +([\d,]+) ", answer.stdout, re.M))
    assert set(lines) == {"locust", "engine", "websockets.sync"}
    assert all(int(rate.replace(",", "")) > 0 for rate in lines.values())
