"""The load test's own command line options, beside locust's, and presets of all of them in TOML."""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator.address import parse_address
from loadtest.load.certificates import DIRECTORY
from loadtest.load.settings import FleetSettings

PRESETS = Path(__file__).parent.parent / "presets.toml"
DEFAULT_PRESET = "mixed"
# What may be changed from run to run while locust runs; the rest is said at its start.
_IN_WEB = frozenset(
    (
        *("url", "connect", "target", "echo", "auth", "one_way", "no_resume", "connects"),
        *("settle", "rate", "burst", "size", "big_size", "flood", "room_size", "read_share"),
        *("churn_every", "storm_every", "kill_every"),
    )
)


class OptionProblem(Exception):
    """One line for whoever typed it."""


def add_options(parser: Any) -> None:
    """Add ours to a parser, such as locust's."""
    group = parser.add_argument_group("fedgate")

    def add(name: str, **described: Any) -> None:
        action = group.add_argument(name, **described)
        # Locust shows those in its web interface.
        setattr(action, "include_in_web_ui", action.dest in _IN_WEB)  # noqa: B010

    add("--preset", default="", help=f"a table of {PRESETS.name}: defaults for all options")
    add("--url", default="wss://127.0.0.1:443/xmpp-s2s", help="the XEP-0468 endpoint under test")
    add("--connect", default="", help="where it is connected to (default: host and port of --url)")
    add("--target", default="sink.example", help="the domain behind it that answers")
    add("--echo", default="echo", help="the user there who answers; '': the domain itself")
    add("--zone", default="load.example", help="remote domains are d0, d1, … below it")
    add("--ca", default=str(DIRECTORY), help="directory of the test CA, made on first use")
    add("--auth", default="external", choices=("external", "dialback"))
    add("--one-way", action="store_true", help="no XEP-0288: answers come on sessions to --listen")
    add("--no-resume", action="store_true", help="no resumption of lost sessions (XEP-0198)")
    add("--listen", default="", help="where the endpoint reaches the remote domains, host:port")
    add("--connects", type=int, default=48, help="sessions being opened at the same moment")
    add("--settle", type=float, default=15.0, help="seconds for what is on its way at the end")
    add(
        "--mix",
        default=read_preset(DEFAULT_PRESET)["mix"],
        help="scenarios and weights, such as 'Chat=8 IqPing=2'",
    )
    add("--rate", type=float, default=1.0, help="stanzas per second of each domain (open model)")
    add("--burst", type=int, default=1, help="stanzas at once, at a rate that much lower")
    add("--size", type=int, default=200, help="bytes of a chat message's text")
    add("--big-size", type=int, default=100_000, help="bytes of a big message's text")
    add("--flood", type=int, default=20, help="presences that come in one moment")
    add("--room-size", type=int, default=10, help="members of a room")
    add("--read-share", type=float, default=0.1, help="of the time, that slow readers read")
    add("--churn-every", type=float, default=5.0, help="seconds a churning session lives")
    add("--storm-every", type=float, default=20.0, help="seconds between losses of all sessions")
    add("--kill-every", type=float, default=20.0, help="seconds between kills of a worker")
    add("--admin", default="", help="the gateway's admin API: its processes are measured")
    add("--pids", default="", help="other processes to measure, such as 'sink=123 redis=456'")
    add("--report", default="", help="write FILE.html and FILE.json at the end")
    add("--progress", action="store_true", help="one line a second, and a summary at the end")
    add("--fail-if", nargs="*", default=[], help="exit with 1 if one holds: 'p99>50ms' 'lost>0'")


def use_preset(parser: Any, name: str, file: Path = PRESETS) -> None:
    """Make its values the defaults of a parser. Raises `OptionProblem`."""
    known = {text: action.dest for action in parser._actions for text in action.option_strings}
    for key, value in read_preset(name, file).items():
        if f"--{key}" not in known:
            raise OptionProblem(f"preset {name!r}: there is no option --{key}")
        # As text, like on the command line: argparse converts it.
        parser.set_defaults(**{known[f"--{key}"]: value if isinstance(value, bool) else str(value)})


def chosen_preset(arguments: Sequence[str]) -> str:
    """What --preset names on a command line of locust."""
    only = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only.add_argument("--preset", default="")
    return str(only.parse_known_args(arguments)[0].preset)


def read_preset(name: str, file: Path = PRESETS) -> dict[str, Any]:
    """The options of a preset by their names, as on the command line. Raises `OptionProblem`."""
    tables = tomllib.loads(file.read_text())
    if name not in tables:
        raise OptionProblem(f"no preset {name!r} in {file}; there are: {', '.join(sorted(tables))}")
    return {
        key: parse_mix_table(value) if isinstance(value, Mapping) else value
        for key, value in tables[name].items()
    }


def parse_mix_table(table: Mapping[str, int]) -> str:
    """A mix as a TOML table, written as the option wants it."""
    return " ".join(f"{name}={weight}" for name, weight in table.items())


def parse_mix(text: str, known: Sequence[str]) -> dict[str, int]:
    """Scenarios and their weights. Raises `OptionProblem`."""
    mix = {}
    for part in text.split():
        name, _, weight = part.partition("=")
        if name not in known:
            raise OptionProblem(f"no scenario {name!r}; there are: {', '.join(sorted(known))}")
        if not (weight or "1").isdigit():
            raise OptionProblem(f"the weight of {part!r} is no number")
        mix[name] = int(weight or 1)
    return mix


def parse_pids(text: str) -> dict[str, int]:
    """Processes by name. Raises `OptionProblem`."""
    pids = {}
    for part in text.split():
        name, equals, pid = part.partition("=")
        if not equals or not pid.isdigit():
            raise OptionProblem(f"{part!r} is not name=pid")
        pids[name] = int(pid)
    return pids


def fleet_settings(options: Any, prefix: str) -> FleetSettings:
    """What the options say of the fleet. Raises `OptionProblem`, `InvalidAddress`."""
    parts = urlsplit(options.url)
    if parts.scheme != "wss" or not parts.hostname:
        raise OptionProblem(f"--url {options.url!r} is no wss URL")
    if options.connect:
        address = parse_address(options.connect)
        connect = (address.host, address.port)
    else:
        connect = (parts.hostname, parts.port or 443)
    listen = parse_address(options.listen) if options.listen else None
    return FleetSettings(
        url=options.url,
        address=connect,
        target=options.target,
        zone=options.zone,
        prefix=prefix,
        auth=options.auth,
        bidi=not options.one_way,
        resume=not options.no_resume,
        listen=(listen.host, listen.port) if listen is not None else None,
        connects=options.connects,
        settle=options.settle,
    )
