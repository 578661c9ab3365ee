"""For locust: `locust -f loadtest/locustfile.py --url wss://gw.example.org/xmpp-s2s …`.

`python -m loadtest` brings up a gateway and a sink of its own and runs this.
"""

# Importing locust patches the process, so nothing may come before it.
import locust  # isort: skip

import sys
from typing import Any, NoReturn

from coordinator.address import InvalidAddress
from loadtest.load.harness import LoadTest
from loadtest.load.options import (
    OptionProblem,
    add_options,
    chosen_preset,
    fleet_settings,
    parse_mix,
    use_preset,
)
from loadtest.load.thresholds import InvalidThreshold, parse_threshold
from loadtest.report.figures import check_metric
from loadtest.scenarios import (
    BigStanzas,
    Chat,
    Churn,
    Hostile,
    IqPing,
    KillWorkers,
    ManyToOne,
    OneToMany,
    PresenceFlood,
    ReconnectStorm,
    Room,
    SlowReader,
)
from workers.gateway.garbage import Garbage

# Locust looks for them here.
__all__ = [
    "BigStanzas",
    "Chat",
    "Churn",
    "Hostile",
    "IqPing",
    "KillWorkers",
    "ManyToOne",
    "OneToMany",
    "PresenceFlood",
    "ReconnectStorm",
    "Room",
    "SlowReader",
]


@locust.events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    add_options(parser)
    try:
        if preset := chosen_preset(sys.argv[1:]):
            use_preset(parser, preset)
    except OptionProblem as exc:
        _refuse(exc)


@locust.events.init.add_listener
def _init(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    try:
        for text in options.fail_if:
            check_metric(parse_threshold(text))
        fleet_settings(options, "")
        if options.mix and not options.user_classes and not options.worker:
            _choose(environment, options.mix)
    except (OptionProblem, InvalidThreshold, InvalidAddress) as exc:
        _refuse(exc)
    Garbage().start()  # pauses of ours would count as the gateway's
    environment.load = LoadTest(environment)


def _refuse(problem: Exception) -> NoReturn:
    print(problem, file=sys.stderr)
    sys.exit(2)


def _choose(environment: Any, mix: str) -> None:
    known = {each.__name__: each for each in environment.user_classes}
    weights = parse_mix(mix, list(known))
    environment.user_classes[:] = [known[name] for name in weights]
    for each in environment.user_classes:
        if not each.fixed_count:
            each.weight = weights[each.__name__]
