"""The abuser does what it is told, and the table compares with nothing."""

import io
import os
import socket
from pathlib import Path

from rich.console import Console

from loadtest.abuse import Figures, separate, table
from loadtest.bench.generator import Generator
from loadtest.bench.link import Link
from loadtest.bench.opening import Accepting, Domains, Identity
from loadtest.bench.tally import Tally
from loadtest.stage.authority import TestAuthority
from loadtest.stage.processes import eventually

EVIL, GOOD = "evil.example", "good.example"


async def test_a_flood_comes_as_stanzas_that_nobody_expects_until_it_is_stopped(
    tmp_path: Path,
) -> None:
    authority = TestAuthority(tmp_path / "ca")
    pair = authority.issue(GOOD)
    identity = Identity(certificate=pair.certificate, key=pair.key, domains=Domains([GOOD]))
    links: list[Link] = []
    tally = Tally(1)

    def on_link(link: Link) -> None:
        link.tally = tally
        links.append(link)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    accepting = Accepting(identity, on_link)
    await accepting.listen_wss("127.0.0.1", port)
    log = tmp_path / "abuser.log"
    abuser = Generator("abuser", authority.issue(EVIL), [EVIL], log, module="loadtest.abuser")
    await abuser.start()
    try:
        where = {"address": "127.0.0.1", "port": port, "host": GOOD}
        await abuser.ask("flood", **where, pairs=[(EVIL, GOOD)], size=300)
        await eventually(lambda: tally.strange >= 1000, within=10, what="stanzas arrive")
        assert (await abuser.ask("stop"))["count"] >= 1000
        await eventually(lambda: links[0].is_closed, within=10, what="its session ends")
    finally:
        await abuser.stop()
        accepting.close()


def test_the_worker_has_a_core_for_itself_where_there_are_two() -> None:
    before = os.sched_getaffinity(0)
    try:
        own = separate(before)
        rest = os.sched_getaffinity(0)
    finally:
        os.sched_setaffinity(0, before)
    if len(before) > 1:
        assert len(own) == 1 and own | rest == before and not own & rest
    assert separate({3}) == {3}
    assert os.sched_getaffinity(0) == before


def test_the_table_shows_medians_and_how_they_compare() -> None:
    found = {
        "none": Figures([0.001], [0.002, 0.009, 0.002], [0.001], [0.0], [0.1], [0.0]),
        "flood": Figures([0.001], [0.003], [0.002], [12_345.0], [0.5], [0.02]),
    }
    text = io.StringIO()
    Console(file=text, width=120).print(table(found))
    (flood,) = [line.split() for line in text.getvalue().splitlines() if "flood" in line]
    assert flood == ["flood", "1.00", "3.00", "1.50", "2.00", "12,345", "50%", "2%"]
