"""The smallest real run of `make bench`: sockets, TLS on both legs, ledger and sink compared."""

import asyncio
import json
import sys
from pathlib import Path


async def test_the_smallest_run_measures_every_row(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "loadtest.bench", "--only", "outbound"),
        *("--repeats", "1", "--stanzas", "2000", "--json", str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out.decode()
    rows = json.loads(file.read_text())["rows"]
    saturated = next(row for row in rows if row["name"] == "saturated, 64 per write")
    assert saturated["samples"][0] > 0
    assert set(saturated["cpu"]) == {"worker", "coordinator", "redis", "generator", "sink"}
    assert all(row["median"] for row in rows)
    assert "per CPU-s" in out.decode()
