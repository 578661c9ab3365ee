"""How every process of fedgate logs: one record, one line, whatever strangers put into it."""

import logging
import re
from bisect import bisect_right
from typing import TextIO

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

LONGEST_LINE = 4000
"""Bytes, before a few words on what is left out: whatever peers say, a log can be read, and lines
of several processes do not mix in one pipe, which takes 4,096 at once."""

# C0 and C1 controls and DEL; what else some terminals and readers take for the end of a line or for
# a change of direction; what nobody sees; and surrogates, which cannot be written at all.
_DANGEROUS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def escape(text: str) -> str:
    """The text in one line of bounded length: dangerous characters as `\\xNN` or `\\uNNNN`."""
    line = _shown(text[:LONGEST_LINE])
    if len(text) <= LONGEST_LINE and len(line.encode()) <= LONGEST_LINE:
        return line
    counts = range(LONGEST_LINE + 1)
    kept = bisect_right(counts, LONGEST_LINE, key=lambda n: len(_shown(text[:n]).encode())) - 1
    return f"{_shown(text[:kept])}… and {len(text) - kept} characters more"


def _shown(text: str) -> str:
    return _DANGEROUS.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number > 0xFFFF:
        return f"\\U{number:08x}"
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


class EscapingFormatter(logging.Formatter):
    """Escapes the message; the lines of a traceback are indented, so that none can pass for one."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return _indented(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(f"  {escape(line)}" for line in text.split("\n"))


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line by itself: a traceback may be longer than a pipe takes at once."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for line in self.format(record).split("\n"):
                self.stream.write(f"{line}\n")
                self.stream.flush()
        except Exception:
            self.handleError(record)


def set_up(level: str) -> None:
    """Log to standard error from `level` ("debug", "info", …) on."""
    handler = LineHandler()
    handler.setFormatter(EscapingFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def set_level(level: str) -> None:
    """Log from another level on."""
    logging.getLogger().setLevel(level.upper())
