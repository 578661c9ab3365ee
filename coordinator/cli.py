"""The `fedgate` command: parser and dispatch. Each verb makes its own heavy imports."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from coordinator.allocation import worker_environment
from coordinator.config import Config
from coordinator.configfile import SEARCHED, find, load
from coordinator.configvalue import ConfigError
from coordinator.exits import MEANINGS, ExitCode
from coordinator.logs import escape

NOUNS = {
    "status": "the gateway at a glance",
    "workers": "worker processes",
    "routes": "which worker owns which domain pair",
    "sessions": "open sessions with remote servers",
    "ledger": "what became of every stanza",
    "errors": "the latest errors",
}


_PIPED_WIDTH = 240
_ORDER_TIMEOUT = 20.0  # seconds; sessions that close and open take their time


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    options = parser().parse_args(arguments)
    verb: Callable[[argparse.Namespace], int] = options.run
    try:
        code = verb(options)
        sys.stdout.flush()  # here, where a reader that has left is no error
        return code
    except ConfigError as exc:
        return fail(str(exc), ExitCode.CONFIGURATION)
    except BrokenPipeError:
        # `fedgate routes | head`: the reader has seen enough; keep the interpreter from flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.OK


def parser() -> argparse.ArgumentParser:
    """The whole command line; `--help` ends with the exit codes."""
    codes = "\n".join(f"  {code.value:>2}  {MEANINGS[code]}" for code in ExitCode)
    top = argparse.ArgumentParser(
        prog="fedgate",
        description="Carries a local XMPP server's federation over secure WebSocket (XEP-0468).",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--config", metavar="FILE", help=f"default: the first of {', '.join(SEARCHED)}"
    )
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
        verb = verbs.add_parser(name, parents=[shared], help=text, description=text)
        verb.set_defaults(run=run, verb=name)
        return verb

    _add_processes(add)
    _add_sessions(add)
    _add_questions(add)
    _add_setup(add)
    return top


def _add_processes(add: Callable[..., Any]) -> None:
    add("up", _supervise, "run coordinator, workers and embedded Redis in the foreground")
    add("coordinator", _supervise, "run the coordinator alone; workers are started elsewhere")
    worker = add("worker", _worker, "run one worker alone; it binds its ports itself")
    worker.add_argument("--id", default="", help="name among this gateway's workers; default: new")
    drain = add("drain", _order, "move the work of one worker, or of all, elsewhere and stop")
    drain.add_argument("argument", metavar="WORKER", nargs="?", default="", help="default: all")
    add("reload", _order, "read certificates and configuration again").set_defaults(argument="")
    add("restart", _order, "replace the workers one by one").set_defaults(argument="")


def _add_sessions(add: Callable[..., Any]) -> None:
    close = add("close", _order, "end all sessions with a domain in order")
    close.add_argument("argument", metavar="DOMAIN")
    reconnect = add("reconnect", _order, "open outbound sessions anew")
    reconnect.add_argument("argument", metavar="DOMAIN", nargs="?", default="", help="default: all")
    ping = add("ping", _order, "measure the way to a domain's sessions and back")
    ping.add_argument("argument", metavar="DOMAIN")


def _add_questions(add: Callable[..., Any]) -> None:
    for noun, text in NOUNS.items():
        verb = add(noun, _show, text)
        verb.add_argument("--json", action="store_true", help="the admin API's answer as it is")
        verb.add_argument(
            "--watch",
            type=_seconds,
            metavar="SECONDS",
            nargs="?",
            const=2.0,
            help="repeat; default 2",
        )
    check = add("check", _check_domain, "find out step by step whether a domain can be reached")
    check.add_argument("domain", metavar="DOMAIN")
    check.add_argument("--json", action="store_true")


def _add_setup(add: Callable[..., Any]) -> None:
    attach = add("attach", _attach, "print what to add to the local server's configuration")
    attach.add_argument("server", choices=("prosody", "ejabberd"))
    attach.add_argument("--json", action="store_true", help="blocks, pins and warnings as JSON")
    add("host-meta", _host_meta, "print the host-meta documents to publish")
    config = add("config", _config, "check or print the configuration")
    config.add_argument("action", choices=("check", "print"))
    config.add_argument("--json", action="store_true")
    config.add_argument(
        "--example", action="store_true", help="print: all options with their defaults"
    )


def _harmless(text: str) -> str:
    """Parts of it may be what peers have said, and a terminal obeys what it is shown."""
    return "\n".join(map(escape, text.split("\n")))


def fail(message: str, code: ExitCode) -> ExitCode:
    """Say in one line on stderr what went wrong, and return the code."""
    print(f"fedgate: {_harmless(message)}", file=sys.stderr)
    return code


def _supervise(options: argparse.Namespace) -> int:
    config, path = _loaded(options)
    code = _report_findings(config, first_error=True)
    if code != ExitCode.OK:
        return code
    from coordinator.supervisor import run

    return run(config, path, workers=0 if options.verb == "coordinator" else None)


def _worker(options: argparse.Namespace) -> int:
    _config, path = _loaded(options)
    # A name that no other machine or container on the same Redis has by chance.
    name = options.id or f"w{os.urandom(3).hex()}"
    _become("workers.worker", "--config", path, "--id", name)


def _check_domain(options: argparse.Namespace) -> int:
    _config, path = _loaded(options)
    flags = ["--json"] if options.json else []
    _become("workers.check", "--config", path, *flags, options.domain)


def _host_meta(options: argparse.Namespace) -> int:
    _config, path = _loaded(options)
    _become("workers.hostmeta", "--config", path)


def _order(options: argparse.Namespace) -> int:
    from coordinator import control

    config, _path = _loaded(options)
    try:
        reply = control.ask(
            control.socket_path(config.gateway.state_dir),
            control.Order(verb=options.verb, argument=options.argument),
            timeout=_ORDER_TIMEOUT,
        )
    except OSError as exc:
        reason = exc.strerror or "no answer in time"
        return fail(
            f"no coordinator at {control.socket_path(config.gateway.state_dir)} ({reason}); "
            "is fedgate running, with this configuration, and are you its user?",
            ExitCode.FAILURE,
        )
    except control.ControlProtocolError as exc:
        return fail(f"{exc}; see the log of fedgate", ExitCode.FAILURE)
    if not reply.ok:
        return fail(reply.text, ExitCode.FAILURE)
    print(_harmless(reply.text))
    return ExitCode.OK


def _show(options: argparse.Namespace) -> int:
    from coordinator.query import QueryFailed, fetch

    config, _path = _loaded(options)
    while True:
        try:
            answer = fetch(config, options.verb)
        except QueryFailed as exc:
            fail(str(exc), ExitCode.FAILURE)
            if options.watch is None:
                return ExitCode.FAILURE
        else:
            _print_answer(options, answer)
        if options.watch is None:
            return ExitCode.OK
        time.sleep(options.watch)


def _print_answer(options: argparse.Namespace, answer: Any) -> None:
    if options.json:
        print(json.dumps(answer, indent=None if options.watch else 2), flush=True)
        return
    from rich.console import Console

    from coordinator.tables import table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)  # grep needs whole lines
    if options.watch is not None and console.is_terminal:
        console.clear()
    console.print(table(options.verb, answer))


def _attach(options: argparse.Namespace) -> int:
    from coordinator import attach, pinning, pins
    from coordinator.authority import AuthorityProblem

    config, path = _loaded(options)
    try:
        pinning.prepare_state(config)
        reading = pinning.read_keys(path)
        found = pinning.pin(config, reading)
    except (pinning.AttachFailed, AuthorityProblem, pins.PinsUnreadable) as exc:
        return fail(str(exc), ExitCode.FAILURE)
    except OSError as exc:
        return fail(f"cannot write {exc.filename}: {exc.strerror}; free it", ExitCode.FAILURE)
    if config.local.attach == "s2s":
        file = attach.ca_file(config) if options.server == "prosody" else attach.ca_bundle(config)
        hidden = pinning.unreadable_for_others(file)
        found += [hidden] if hidden else []
    found += attach.warnings(config, options.server)
    blocks = attach.blocks(config, options.server)
    if options.json:
        files = {block.file: block.text for block in blocks}
        print(json.dumps({"files": files, "pins": dict(reading.keys), "warnings": found}, indent=2))
        return ExitCode.OK
    print("\n".join(block.text for block in blocks), end="")
    for domain, key in reading.keys.items():
        print(f"pinned the key of {domain}: {key}", file=sys.stderr)
    for line in found:
        print(f"warning: {line}", file=sys.stderr)
    return ExitCode.OK


def _config(options: argparse.Namespace) -> int:
    from coordinator import configtext

    if options.action == "print" and options.example:
        print(configtext.example(), end="")
        return ExitCode.OK
    config, path = _loaded(options)
    if options.action == "check":
        code = _report_findings(config, as_json=options.json)
        if code == ExitCode.OK and not options.json:
            print(f"{path}: correct")
        return code
    if options.json:
        print(json.dumps(configtext.as_dict(config), indent=2))
    else:
        print(configtext.render(config), end="")
    return ExitCode.OK


def _report_findings(
    config: Config, *, as_json: bool = False, first_error: bool = False
) -> ExitCode:
    """Print all findings; with `first_error`, the first error alone, whose effects follow it."""
    from coordinator.configcheck import check, exit_code

    findings = check(config)
    if first_error and exit_code(findings) != ExitCode.OK:
        findings = [finding for finding in findings if finding.is_error][:1]
    if as_json:
        rows = [{"error": f.is_error, "cause": f.cause, "next_step": f.next_step} for f in findings]
        print(json.dumps(rows, indent=2))
    else:
        for finding in findings:
            mark = "" if finding.is_error else "warning: "
            print(f"fedgate: {mark}{finding}", file=sys.stderr)
    return exit_code(findings)


def _loaded(options: argparse.Namespace) -> tuple[Config, str]:
    """The configuration, and the absolute path of its file for the processes started from here."""
    file = find(options.config)
    return load(str(file)), str(Path(file).absolute())


def _become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by a program of the data plane, which is never imported here."""
    sys.stdout.flush()
    # -P: the current directory must not be able to supply modules.
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execve(sys.executable, command, worker_environment(os.environ))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError("from 0.1 to 86400 seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
