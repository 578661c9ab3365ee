"""How every process of fedgate logs: one record, one line, whatever strangers put into it."""

import logging
import re

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

# C0 and C1 controls, DEL, and what else some terminals and readers take for the end of a line or
# for a change of direction.
_DANGEROUS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """The text in one line: dangerous characters as `\\xNN` or `\\uNNNN`."""
    return _DANGEROUS.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


class EscapingFormatter(logging.Formatter):
    """Escapes the message; the lines of a traceback are indented, so that none can pass for one."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"  {escape(line)}" for line in text.split("\n"))


def set_up(level: str) -> None:
    """Log to standard error from `level` ("debug", "info", …) on."""
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def set_level(level: str) -> None:
    """Log from another level on."""
    logging.getLogger().setLevel(level.upper())
