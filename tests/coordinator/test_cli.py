import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coordinator import cli, control, query
from coordinator.allocation import worker_environment
from coordinator.config import Config
from coordinator.exits import MEANINGS, ExitCode
from tests.coordinator.pem import DAY, NOW, write_pair


class Replaced(Exception):
    """Stands for the process that `os.execve` would have become."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A correct configuration, whose local server and admin API are down."""
    pair = write_pair(tmp_path, "capulet.example", until=NOW + 36500 * DAY)
    path = tmp_path / "fedgate.toml"
    path.write_text(
        f'[gateway]\ndomains = "capulet.example"\nstate_dir = "{tmp_path}/state"\n'
        f'[certificates]\npairs = [{{ certificate = "{pair.certificate}", key = "{pair.key}" }}]\n'
        '[local]\nserver = "127.0.0.1:1"\n[admin]\nlisten = "127.0.0.1:1"\n'
    )
    return path


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command line that this process is replaced by."""
    command: list[str] = []

    def execve(_path: str, arguments: list[str], environment: dict[str, str]) -> None:
        assert environment == worker_environment(os.environ)
        command.extend(arguments)
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    yield command


def run(file: Path, *arguments: str) -> int:
    return cli.main([*arguments, "--config", str(file)])


def test_help_documents_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])

    text = capsys.readouterr().out
    assert caught.value.code == 0
    for code in ExitCode:
        assert f"{code.value:>2}  {MEANINGS[code]}" in text


def test_a_wrong_command_line_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["dance"], ["attach", "openfire"], ["status", "--watch", "0"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == ExitCode.USAGE


def test_a_wrong_configuration_is_one_line_and_its_own_code(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("[gateway]\ndomain = 'x'")

    assert run(file, "status") == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == (
        f"fedgate: {file}: unknown key gateway.domain; the nearest known key is gateway.domains\n"
    )


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("check", "b.example"), ["workers.check", "--config", "FILE", "b.example"]),
        (
            ("check", "b.example", "--json"),
            ["workers.check", "--config", "FILE", "--json", "b.example"],
        ),
        (("worker", "--id", "w7"), ["workers.worker", "--config", "FILE", "--id", "w7"]),
        (("host-meta",), ["workers.hostmeta", "--config", "FILE"]),
    ],
)
def test_programs_of_the_data_plane_replace_the_command(
    file: Path, replaced: list[str], arguments: tuple[str, ...], command: list[str]
) -> None:
    with pytest.raises(Replaced):
        run(file, *arguments)

    expected = [str(file) if word == "FILE" else word for word in command]
    assert replaced == [sys.executable, "-P", "-m", *expected]
    assert importlib.util.find_spec(command[0].partition(".")[0])


def test_a_worker_without_a_name_gets_a_new_one(file: Path, replaced: list[str]) -> None:
    names = set()
    for _ in range(2):
        with pytest.raises(Replaced):
            run(file, "worker")
        names.add(replaced[-1])

    assert len(names) == 2


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the supervisor and keeps what it was asked to run."""
    calls: list[Any] = []
    module = ModuleType("coordinator.supervisor")

    def supervise(config: Config, path: str, *, workers: int | None = None) -> int:
        calls.append((config.gateway.domains, path, workers))
        return ExitCode.CANNOT_BIND

    module.run = supervise  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coordinator.supervisor", module)
    return calls


def test_up_and_coordinator_run_the_supervisor(file: Path, supervisor: list[Any]) -> None:
    assert run(file, "up") == ExitCode.CANNOT_BIND
    assert run(file, "coordinator") == ExitCode.CANNOT_BIND

    domains = ("capulet.example",)
    assert supervisor == [(domains, str(file), None), (domains, str(file), 0)]


def test_nothing_is_started_with_a_certificate_that_cannot_be_used(
    file: Path, supervisor: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(file.parent, "capulet.example", until=NOW - 300 * DAY, since=NOW - 301 * DAY)

    assert run(file, "up") == ExitCode.CERTIFICATE
    assert supervisor == []
    assert "expired on 2026-01-26 12:00 UTC; renew it" in capsys.readouterr().err


def test_config_check_says_that_all_is_well(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "config", "check") == ExitCode.OK
    assert capsys.readouterr().out == f"{file}: correct\n"

    assert run(file, "config", "check", "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == []


def test_config_check_tells_cause_and_next_step(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "a.key").unlink()

    assert run(file, "config", "check") == ExitCode.CERTIFICATE
    assert capsys.readouterr().err.startswith(
        f"fedgate: cannot read the key {file.parent}/a.key: No such file or directory; correct"
    )

    assert run(file, "config", "check", "--json") == ExitCode.CERTIFICATE
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["error"] is True
    assert rows[0]["next_step"] == "correct the path or its permissions"


def test_config_print_shows_what_is_in_force(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(file, "config", "print") == ExitCode.OK
    assert 'domains = ["capulet.example"]' in capsys.readouterr().out

    assert run(file, "config", "print", "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["gateway"]["domains"] == ["capulet.example"]

    assert cli.main(["config", "print", "--example"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("# fedgate.toml: every option")


def test_a_gateway_that_is_down_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for noun in cli.NOUNS:
        assert run(file, noun) == ExitCode.FAILURE
        assert "Connection refused" in capsys.readouterr().err


def test_answers_are_tables_or_json(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "fetch", lambda _config, noun: [{"id": "gw1/w1", "noun": noun}])

    assert run(file, "workers") == ExitCode.OK
    assert "gw1/w1" in capsys.readouterr().out
    assert run(file, "workers", "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == [{"id": "gw1/w1", "noun": "workers"}]


def test_watching_repeats_and_survives_a_gateway_that_is_down(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [{"state": "running"}, query.QueryFailed("down; start it"), {"state": "x"}]
    pauses = []

    def fetch(_config: Config, _noun: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if not answers:
            raise KeyboardInterrupt

    monkeypatch.setattr(query, "fetch", fetch)
    monkeypatch.setattr("time.sleep", pause)

    assert run(file, "status", "--json", "--watch", "0.5") == ExitCode.OK
    shown = capsys.readouterr()
    assert shown.out == '{"state": "running"}\n{"state": "x"}\n'
    assert shown.err == "fedgate: down; start it\n"
    assert pauses == [0.5, 0.5, 0.5]


def test_orders_go_to_the_control_socket(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []

    def ask(path: Path, order: control.Order, *, timeout: float) -> control.Reply:
        orders.append((path, order.verb, order.argument))
        return control.Reply(ok=order.argument != "w9", text="as told")

    monkeypatch.setattr(control, "ask", ask)

    assert run(file, "drain") == ExitCode.OK
    for verb in ("reload", "restart", "reconnect"):
        assert run(file, verb) == ExitCode.OK
    assert run(file, "close", "b.example") == run(file, "ping", "b.example") == ExitCode.OK
    assert capsys.readouterr().out == 6 * "as told\n"
    assert run(file, "drain", "w9") == ExitCode.FAILURE
    assert capsys.readouterr().err == "fedgate: as told\n"
    socket = file.parent / "state" / "run" / "coordinator.sock"
    assert orders == [
        (socket, "drain", ""),
        (socket, "reload", ""),
        (socket, "restart", ""),
        (socket, "reconnect", ""),
        (socket, "close", "b.example"),
        (socket, "ping", "b.example"),
        (socket, "drain", "w9"),
    ]


def test_an_order_without_a_coordinator_is_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(file, "drain") == ExitCode.FAILURE
    assert "(No such file or directory); is fedgate running" in capsys.readouterr().err

    def ask(_path: Path, _order: control.Order, *, timeout: float) -> control.Reply:
        raise control.ControlProtocolError("not a message")

    monkeypatch.setattr(control, "ask", ask)
    assert run(file, "drain") == ExitCode.FAILURE
    assert capsys.readouterr().err == "fedgate: not a message; see the log of fedgate\n"


def test_attach_prints_the_block_and_warns_beside_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(file, "attach", "prosody") == ExitCode.OK

    shown = capsys.readouterr()
    assert shown.out.startswith("---- fedgate: in /etc/prosody/prosody.cfg.lua")
    assert f'cafile = "{file.parent}/state/ca.pem"' in shown.out
    assert "warning: no key read for capulet.example (127.0.0.1:1: Connection refused)" in shown.err
    assert (file.parent / "state" / "ca.key").exists()


def test_attach_as_json_holds_each_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "attach", "ejabberd", "--json") == ExitCode.OK

    answer = json.loads(capsys.readouterr().out)
    assert list(answer["files"]) == ["/etc/ejabberd/ejabberd.yml", "/etc/ejabberd/inetrc"]
    assert answer["pins"] == {}
    assert answer["warnings"]


def test_attach_with_damaged_pins_stops(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "state").mkdir()
    (file.parent / "state" / "pins.json").write_text("[]")

    assert run(file, "attach", "prosody") == ExitCode.FAILURE
    assert "remove it and run fedgate attach again" in capsys.readouterr().err


def test_verbs_start_without_the_heavy_parts() -> None:
    heavy = ("rich", "cryptography", "aiohttp", "redis", "uvloop", "workers")
    code = (
        "import sys; from coordinator.cli import main; main(['config', 'print', '--example']); "
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stderr == "[]\n"


@pytest.mark.parametrize("words", [["print"], ["print", "--json"], ["check"]])
def test_a_reader_that_leaves_early_is_no_error(file: Path, words: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "coordinator.cli", "config", *words, "--config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == ExitCode.OK
