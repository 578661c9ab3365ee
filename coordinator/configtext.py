"""The configuration as TOML text with its help: what is in force, and the example file."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from typing import Any, get_type_hints

from coordinator.config import Config, Pair, Remote
from coordinator.redis_url import shown_url

REDACTED = "(redacted)"
_HEADING = """\
# fedgate.toml: every option with its default. Only gateway.domains must be set.
# Generated from the declarations by `fedgate config print --example`.
# Relative paths start at the directory of this file; unknown keys are an error.
"""
_EXAMPLES = {
    "gateway.domains": ["example.org", "rooms.example.org"],
    "certificates.pairs": [{"certificate": "fullchain.pem", "key": "privkey.pem"}],
    "websocket.public_url": "wss://example.org/xmpp-s2s",
}


def render(config: Config, *, with_secrets: bool = False) -> str:
    """The effective configuration with help comments.

    Secrets and passwords are left out, unless the text is for our own processes.
    """
    lines: list[str] = []
    for field in dataclasses.fields(Config):
        section = getattr(config, field.name)
        if isinstance(section, dict):
            for domain, remote in section.items():
                lines += ["", f"[{field.name}.{toml(domain)}]", *_options(remote, with_secrets)]
        else:
            lines += ["", f"[{field.name}]", *_options(section, with_secrets)]
    return "\n".join(lines[1:]) + "\n"


def as_dict(config: Config) -> dict[str, Any]:
    """The effective configuration as JSON-able tables; secrets and passwords are left out."""
    return {
        field.name: {key: _table(item) for key, item in section.items()}
        if isinstance(section := getattr(config, field.name), dict)
        else _table(section)
        for field in dataclasses.fields(Config)
    }


def example() -> str:
    """The text of deploy/fedgate.toml: all options with their defaults, commented out."""
    lines = [_HEADING]
    hints = get_type_hints(Config)
    for field in dataclasses.fields(Config):
        if field.name == "remote":
            lines += ['# [remote."partner.example"]', *_declared(Remote, "remote."), ""]
        else:
            lines += [f"[{field.name}]", *_declared(hints[field.name], f"{field.name}."), ""]
    return "\n".join(lines)


def toml(value: Any) -> str:
    """One value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # the loader takes whole numbers for seconds
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        # JSON's escapes are a subset of TOML's basic strings, once DEL is escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Pair):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        items = (f"{_key(key)} = {toml(item)}" for key, item in value.items())
        return "{ " + ", ".join(items) + " }"
    return "[" + ", ".join(toml(item) for item in value) + "]"


def _table(record: Any) -> dict[str, Any]:
    plain = dataclasses.asdict(record)
    return {
        field.name: _redacted(field.metadata.get("kind", ""), plain[field.name])
        for field in dataclasses.fields(record)
    }


def _options(record: Any, with_secrets: bool) -> Iterator[str]:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if not with_secrets:
            value = _redacted(field.metadata.get("kind", ""), value)
        yield from _help(field)
        yield f"{field.name} = {toml(value)}"


def _declared(record: type[Any], prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(record):
        yield from _help(field)
        value = _EXAMPLES.get(prefix + field.name, field.default)
        mark = "" if prefix + field.name == "gateway.domains" else "# "
        yield f"{mark}{field.name} = {toml(value)}"


def _help(field: "dataclasses.Field[Any]") -> list[str]:
    return textwrap.wrap(field.metadata["help"], 96, initial_indent="# ", subsequent_indent="# ")


def _redacted(kind: str, value: Any) -> Any:
    if kind == "secret" and value:
        return REDACTED
    return shown_url(value) if kind == "redis-url" else value


def _key(text: str) -> str:
    return (
        text if text.replace("_", "").replace("-", "").isalnum() and text.isascii() else toml(text)
    )
