"""A stranger's text can neither begin a line of the log nor steer a terminal."""

import logging
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator import logs
from coordinator.logs import LONGEST_LINE, EscapingFormatter, escape

ROOT = Path(__file__).parents[2]
CRASHES = """
import logging, sys
from coordinator import logs

logs.set_up("info")
for _ in range(200):
    try:
        raise ValueError(3000 * sys.argv[1])
    except ValueError:
        logging.exception(1500 * sys.argv[1])
"""
WHOLE = re.compile(
    r"[0-9-]{10} [0-9:,]{12} ERROR root (a{1500}|b{1500})\n"
    r"|  (Traceback .*:|  File .*|ValueError: (a{3000}|b{3000}))\n"
)


def _record(message: str, *args: object, exc_info: object = None) -> logging.LogRecord:
    return logging.LogRecord("a.name", logging.INFO, "", 0, message, args, exc_info)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\x9b"])
def test_control_characters_become_their_codes(bad: str) -> None:
    assert escape(f"a{bad}b") == f"a\\x{ord(bad):02x}b"


@pytest.mark.parametrize(
    "bad",
    [
        *("\u2028", "\u2029", "\u202e", "\u2066", "\u200f", "\u061c"),
        *("\u200b", "\u2060", "\ufeff", "\ufff9", "\ud800", "\udfff"),
    ],
)
def test_so_do_other_line_breaks_and_changes_of_direction(bad: str) -> None:
    assert escape(f"a{bad}b") == f"a\\u{ord(bad):04x}b"


def test_tags_that_nobody_sees_are_shown() -> None:
    assert escape("a\U000e0041b") == "a\\U000e0041b"


def test_a_line_has_an_end() -> None:
    shown = escape("x" * 1_000_000)
    assert len(shown) < LONGEST_LINE + 50
    assert shown.endswith("… and 996000 characters more")
    assert escape("\0" * 1001).endswith("… and 1 characters more")


@pytest.mark.parametrize("text", ["x", "ß", "\x1b", "\U000e0041", "🎉", "aß🎉\n"])
@pytest.mark.parametrize("count", [900, 1000, 4000, 4001, 20000])
def test_a_line_goes_into_a_pipe_as_a_whole(text: str, count: int) -> None:
    shown = escape(text * count)
    assert len(f"{shown}\n".encode()) <= select.PIPE_BUF
    kept, _, left = shown.partition("… and ")
    number = len(text) * count - int(left.removesuffix(" characters more") or 0 if left else 0)
    assert kept == escape((text * count)[:number])  # no code is cut
    assert bool(left) == (len(escape(text) * count) > LONGEST_LINE or _is_longer(text, count))


def _is_longer(text: str, count: int) -> bool:
    return len((escape(text) * count).encode()) > LONGEST_LINE


def test_lines_of_several_processes_do_not_mix_in_a_pipe() -> None:
    """Records of more bytes than a pipe takes at once, of two processes at the same time."""
    reading, writing = os.pipe()
    children = [
        subprocess.Popen([sys.executable, "-c", CRASHES, letter], stderr=writing, cwd=ROOT)
        for letter in "ab"
    ]
    os.close(writing)
    data = b""
    while piece := os.read(reading, 1000):  # so that it is full, as with a slow reader
        data += piece
    os.close(reading)
    lines = data.decode().splitlines(keepends=True)
    assert [child.wait() for child in children] == [0, 0]
    assert [line for line in lines if not WHOLE.fullmatch(line)] == []
    assert len(lines) >= 2 * 200 * 4


def test_other_text_stays_as_it_is() -> None:
    assert escape("Straße → montague.example 'ünï'") == "Straße → montague.example 'ünï'"


def test_a_record_is_one_line() -> None:
    line = EscapingFormatter().format(_record("ended: %s", "x\n2026-11-22 WARNING forged \x9b31m"))
    assert "\n" not in line
    assert line.endswith("INFO a.name ended: x\\x0a2026-11-22 WARNING forged \\x9b31m")


def test_no_line_of_a_traceback_begins_where_records_do() -> None:
    try:
        raise ValueError("x\n2026-11-22 WARNING forged\x1b")
    except ValueError:
        text = EscapingFormatter().format(_record("failed", exc_info=sys.exc_info()))
    lines = text.split("\n")
    assert len(lines) > 2
    assert all(line.startswith("  ") for line in lines[1:])
    assert "\x1b" not in text


def test_nor_does_a_line_of_a_stack() -> None:
    record = _record("here")
    record.stack_info = "Stack:\n2026-11-22 WARNING forged\x1b"
    assert (
        EscapingFormatter().format(record).endswith("\n  Stack:\n  2026-11-22 WARNING forged\\x1b")
    )


def test_the_level_can_change_while_it_runs():
    root = logging.getLogger()
    before = root.level
    try:
        logs.set_level("error")
        assert not logging.getLogger("coordinator").isEnabledFor(logging.WARNING)
        logs.set_level("debug")
        assert logging.getLogger("coordinator").isEnabledFor(logging.DEBUG)
    finally:
        root.setLevel(before)
