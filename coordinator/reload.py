"""A changed configuration: may it be used, what of it takes effect at once, what needs a restart.

Three kinds of keys. `LIVE` ones take effect for sessions that open from now on. `OUTER` ones belong
to the coordinator (its sockets, its Redis, its name): fedgate must be stopped and started. All
others are read when a worker starts: `fedgate restart` replaces the workers one after the other.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator import configtext
from coordinator.config import Config
from coordinator.configcheck import check
from coordinator.configfile import load
from coordinator.configvalue import ConfigError
from coordinator.processes import write_atomically

LIVE = frozenset(
    {
        "gateway.drain_timeout",
        "gateway.hang_timeout",
        "gateway.log_level",
        "gateway.max_names",
        "gateway.max_worker_rss",
        "certificates.*",
        "remote.*",
        "local.authenticate",
        "local.carry",
        "local.secret",
        "local.server",
        "discovery.native_ttl",
        "discovery.ttl",
        "limits.*",
    }
)
INNER = frozenset(
    {
        "limits.connects",
        "limits.bytes_per_second",
        "limits.stanzas_per_second",
        "limits.names_per_hour",
    }
)
"""Exceptions from `LIVE`: counters are made with them."""
OUTER = frozenset(
    {
        "gateway.domains",
        "gateway.name",
        "gateway.state_dir",
        "gateway.workers",
        "websocket.listen",
        "local.attach",
        "local.dns",
        "local.listen",
        "redis.*",
        "cluster.*",
        "admin.*",
    }
)


class ReloadRefused(Exception):
    """The files cannot be used, so that everything stays as it is; one line with the cause."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload means: by key, such as `limits.idle_timeout`."""

    live: tuple[str, ...]
    inner: tuple[str, ...]
    """These need `fedgate restart`."""
    outer: tuple[str, ...]
    """For these fedgate must be stopped and started."""

    def __str__(self) -> str:
        parts = [f"in force: {', '.join(self.live)}"] if self.live else []
        if self.inner:
            parts.append(f"needs `fedgate restart`: {', '.join(self.inner)}")
        if self.outer:
            parts.append(f"needs a stop and a start of fedgate: {', '.join(self.outer)}")
        return "; ".join(parts) or "the configuration is as it was"


def read(path: str) -> Config:
    """Read the file and all that it names. Raises `ReloadRefused` with the first error."""
    try:
        config = load(path)
    except ConfigError as exc:
        raise ReloadRefused(str(exc)) from exc
    errors = [finding for finding in check(config) if finding.is_error]
    if errors:
        raise ReloadRefused(str(errors[0]))
    return config


def changed(old: Config, new: Config) -> Change:
    """The keys whose values differ, by what they need."""
    kinds: dict[str, list[str]] = {"live": [], "inner": [], "outer": []}
    for section in dataclasses.fields(Config):
        before, after = getattr(old, section.name), getattr(new, section.name)
        if isinstance(before, dict):
            keys = [
                f'{section.name}."{name}"'
                for name in sorted(before.keys() | after.keys())
                if before.get(name) != after.get(name)
            ]
        else:
            keys = [
                f"{section.name}.{field.name}"
                for field in dataclasses.fields(before)
                if getattr(before, field.name) != getattr(after, field.name)
            ]
        for key in keys:
            kinds[_kind(key)].append(key)
    return Change(**{kind: tuple(keys) for kind, keys in kinds.items()})


def merged(old: Config, new: Config, *kinds: str) -> Config:
    """The old configuration with those new values whose kind ("live", "inner") is named."""
    sections: dict[str, Any] = {}
    for section in dataclasses.fields(Config):
        before, after = getattr(old, section.name), getattr(new, section.name)
        if isinstance(before, dict):
            sections[section.name] = after if _kind(f"{section.name}.*") in kinds else before
        else:
            values = {
                field.name: getattr(after, field.name)
                for field in dataclasses.fields(before)
                if _kind(f"{section.name}.{field.name}") in kinds
            }
            sections[section.name] = dataclasses.replace(before, **values)
    return Config(**sections)


def write_accepted(path: Path, config: Config) -> None:
    """Write what workers start with: a file half edited by an operator must not stop a new one."""
    write_atomically(path, configtext.render(config, with_secrets=True).encode())


def _kind(key: str) -> str:
    section = key.partition(".")[0] + ".*"
    if key in INNER:
        return "inner"
    if key in LIVE or section in LIVE:
        return "live"
    return "outer" if key in OUTER or section in OUTER else "inner"
