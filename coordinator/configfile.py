"""Reads fedgate.toml into a `Config`. Every mistake is one line: where, what, and the next step."""

import dataclasses
import difflib
import socket
import tomllib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from coordinator import exposure
from coordinator.config import Config
from coordinator.configvalue import ConfigError, check_number, check_text
from coordinator.domains import InvalidDomain, normalise_domain

SEARCHED = ("fedgate.toml", "/etc/fedgate/fedgate.toml")


def load(path: str | None) -> Config:
    """Read, check and complete the configuration file.

    Without a path the first existing one of `SEARCHED` is read. Domains come back normalised, paths
    absolute, `gateway.name` and `websocket.public_url` filled in. Raises `ConfigError`, one line.
    """
    file = find(path)
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except OSError as exc:
        raise ConfigError(
            f"cannot read {file}: {exc.strerror}; give the file with --config FILE"
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} is not TOML: {exc}; correct that place") from exc
    try:
        return from_table(table, file.resolve().parent)
    except ConfigError as exc:
        raise ConfigError(f"{file}: {exc}") from exc


def find(path: str | None) -> Path:
    """Return the file to read: the given one, or the first existing one of `SEARCHED`."""
    if path is not None:
        return Path(path)
    for candidate in SEARCHED:
        if Path(candidate).exists():
            return Path(candidate)
    raise ConfigError(
        f"no configuration: neither {' nor '.join(SEARCHED)} exists; "
        "give the file with --config FILE, or start from deploy/fedgate.toml"
    )


def from_table(table: Mapping[str, Any], directory: Path) -> Config:
    """Build the configuration from a parsed file; relative paths start at `directory`."""
    config: Config = _record(Config, table, "", directory)
    _check_as_a_whole(config)
    return _completed(config)


def known_keys(record: type[Any] = Config, prefix: str = "") -> Iterator[str]:
    """All keys of the file in dotted form; `remote.*.url` stands for any domain's."""
    hints = get_type_hints(record)
    for field in dataclasses.fields(record):
        name = f"{prefix}{field.name}"
        inner = _record_inside(hints[field.name])
        if inner is None:
            yield name
            continue
        by_domain = get_origin(hints[field.name]) is dict
        yield from known_keys(inner, f"{name}.*." if by_domain else f"{name}.")


def _record(record: type[Any], table: Any, name: str, directory: Path) -> Any:
    if not isinstance(table, Mapping):
        raise _wrong_type(name, table, "a table of keys: " + ", ".join(_names(record)))
    hints = get_type_hints(record)
    declared = {field.name: field for field in dataclasses.fields(record)}
    values = {}
    for key, value in table.items():
        dotted = f"{name}.{key}" if name else key
        if key not in declared:
            raise ConfigError(_unknown(dotted, is_table=isinstance(value, Mapping)))
        values[key] = _value(hints[key], declared[key].metadata, value, dotted, directory)
    return record(**values)


def _value(wanted: Any, meta: Mapping[str, Any], value: Any, name: str, directory: Path) -> Any:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _record(wanted, value, name, directory)
    if origin in (Union, types.UnionType):  # `local.server`: one text, or a table by domain
        wanted = arguments[1] if isinstance(value, Mapping) else arguments[0]
        return _value(wanted, meta, value, name, directory)
    if origin is dict:
        return _by_domain(arguments[1], meta, value, name, directory)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(arguments[0], meta, item, name, directory) for item in items)
    if wanted is bool:
        if not isinstance(value, bool):
            raise _wrong_type(name, value, "true or false")
        return value
    if wanted in (int, float):
        return check_number(wanted, meta, value, name)
    if not isinstance(value, str):
        shown = "…" if meta.get("kind") in ("secret", "redis-url") else value
        raise _wrong_type(name, shown, "text in quotes")
    return check_text(meta, value, name, directory)


def _by_domain(
    wanted: Any, meta: Mapping[str, Any], value: Any, name: str, directory: Path
) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong_type(name, value, f'tables such as [{name}."example.org"]')
    result = {}
    for domain, item in value.items():
        try:
            key = domain if domain == "*" else normalise_domain(domain)
        except InvalidDomain as exc:
            raise ConfigError(f"{name}: {exc}; write the key as a domain in quotes") from exc
        result[key] = _value(wanted, meta, item, f'{name}."{domain}"', directory)
    return result


def _record_inside(wanted: Any) -> type[Any] | None:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return wanted
    for argument in get_args(wanted):
        if dataclasses.is_dataclass(argument) and isinstance(argument, type):
            return argument
    return None


def _names(record: type[Any]) -> Iterator[str]:
    return (field.name for field in dataclasses.fields(record))


def _unknown(name: str, *, is_table: bool) -> str:
    """Name the nearest known key: the same word elsewhere first, then the most alike spelling."""
    keys = list(known_keys())
    word = name.rpartition(".")[2]
    section = name.rpartition(".")[0]
    if is_table and "." not in name:
        keys = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    siblings = [key for key in keys if key.rpartition(".")[0] == _pattern(section)]
    close = difflib.get_close_matches(word, [k.rpartition(".")[2] for k in siblings], 1, 0.7)
    same_word = [key for key in keys if key.rpartition(".")[2] == word]
    if close:
        nearest = f"{section}.{close[0]}" if section else close[0]
    else:
        nearest = (same_word or difflib.get_close_matches(name, keys, 1, 0.0))[0]
    return f"unknown key {name}; the nearest known key is {nearest}"


def _pattern(section: str) -> str:
    """`remote."partner.example"` as `known_keys` spells it."""
    return "remote.*" if section.startswith("remote.") else section


def _named(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "a table" if isinstance(value, Mapping) else "a date or time")


def _wrong_type(name: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{name} is {_named(value)} ({value!r:.60}); it must be {wanted}")


def _check_as_a_whole(config: Config) -> None:
    domains = config.gateway.domains
    if not domains:
        raise ConfigError(
            "gateway.domains is missing; name the domains of your server under [gateway]: "
            'domains = ["example.org"]'
        )
    for domain in domains:
        if domains.count(domain) > 1:
            raise ConfigError(f"gateway.domains names {domain} twice; remove one")
        if domain in config.remote:
            raise ConfigError(
                f'{domain} is in gateway.domains and under [remote."{domain}"]; remove one of them'
            )
    for pair in config.certificates.pairs:
        if not (pair.certificate and pair.key):
            raise ConfigError(
                "an entry of certificates.pairs lacks its certificate or its key; write "
                '{ certificate = "fullchain.pem", key = "privkey.pem" }'
            )
    _check_local(config)
    exposure.check(config)


def _check_local(config: Config) -> None:
    local = config.local
    if isinstance(local.server, dict):
        missing = [d for d in config.gateway.domains if d not in local.server]
        if missing and "*" not in local.server:
            raise ConfigError(f'local.server has no address for {missing[0]}; add it, or "*"')
    if local.attach == "component":
        _check_components(config)


def _check_components(config: Config) -> None:
    if not config.local.secret:
        raise ConfigError("local.attach is component but local.secret is empty; set the secret")
    if not any(domain != "*" for domain in config.remote):
        raise ConfigError(
            "local.attach is component but no remote domain is declared; "
            'add a table [remote."partner.example"] for each'
        )
    if config.gateway.workers > 1:
        raise ConfigError(
            f"gateway.workers is {config.gateway.workers} but local.attach is component: servers "
            "keep one connection per component in order; remove gateway.workers, or set it to 1"
        )


def _completed(config: Config) -> Config:
    gateway, websocket, local = config.gateway, config.websocket, config.local
    if local.attach == "component":
        # One worker has all components; nothing is steered to it.
        gateway = dataclasses.replace(gateway, workers=1)
        local = dataclasses.replace(local, dns="")
    if not gateway.name:
        gateway = dataclasses.replace(gateway, name=socket.gethostname())
    if not websocket.public_url:
        url = f"wss://{gateway.domains[0]}{websocket.path}"
        websocket = dataclasses.replace(websocket, public_url=url)
    return dataclasses.replace(config, gateway=gateway, websocket=websocket, local=local)
