"""Text that came from outside, made safe for the XML we write by hand."""

import re

# What XML 1.0 §2.2 forbids; lone surrogates could not be encoded either.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# COMPAT(xmpp-proxy 1.x): it finds the end of `<open/>` by the first `>`, so that is escaped too.
_CHARACTER_DATA = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_ATTRIBUTE = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "'": "&apos;",
        '"': "&quot;",
        "\t": "&#9;",
        "\n": "&#10;",
        "\r": "&#13;",
    }
)


def character_data(text: str) -> str:
    """Escape element content; characters XML cannot carry become U+FFFD."""
    return _ILLEGAL.sub("\ufffd", text).translate(_CHARACTER_DATA)


def attribute(value: str) -> str:
    """Escape and quote an attribute value; characters XML cannot carry become U+FFFD."""
    return f"'{_ILLEGAL.sub(chr(0xFFFD), value).translate(_ATTRIBUTE)}'"
