"""The sections are parts of one whole, and nothing stays timed."""

import pytest

from loadtest.micro_sections import SECTIONS, main, sections
from workers.gateway import channel
from workers.gateway.tls_engine import TLSEngine
from workers.xmpp.parser import StreamParser


@pytest.mark.parametrize("inbound", [False, True])
def test_every_section_takes_time(inbound: bool) -> None:
    found = sections(inbound=inbound, batch=16, count=64, repeats=2)
    assert set(found) == {"whole", *SECTIONS, "others"}
    assert min(found[name] for name in ("whole", *SECTIONS)) > 0


def test_the_parts_are_left_as_they_were() -> None:
    feed = StreamParser.feed
    sections(inbound=False, batch=1, count=2, repeats=1)
    assert StreamParser.feed is feed
    assert channel.TLSEngine is TLSEngine


def test_the_table_has_both_ways_and_all_batches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "64", "--repeats", "1"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["µs", "per", "stanza", "batch", "whole", *SECTIONS, "others"]
    assert [row.split()[2:4] for row in rows] == [
        [way, str(batch)] for way in ("out", "in") for batch in (1, 16, 64)
    ]
