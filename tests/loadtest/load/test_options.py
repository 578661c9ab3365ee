"""The command line of a load test."""

import argparse
import tomllib
from pathlib import Path

import pytest

from loadtest.load import options
from loadtest.load.options import OptionProblem


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    return parser.parse_args(arguments)


def test_settings_come_from_the_options() -> None:
    settings = options.fleet_settings(
        parsed("--url", "wss://gw.example:8443/x", "--one-way", "--listen", "127.0.0.1:99"), "w1"
    )
    assert settings.address == ("gw.example", 8443)
    assert settings.listen == ("127.0.0.1", 99)
    assert not settings.bidi
    assert settings.resumption_seconds == 300
    assert settings.prefix == "w1"


def test_another_address_may_be_connected_to() -> None:
    settings = options.fleet_settings(
        parsed("--url", "wss://gw.example/x", "--connect", "127.0.0.1:9", "--no-resume"), ""
    )
    assert settings.address == ("127.0.0.1", 9)
    assert settings.resumption_seconds == 0


def test_the_web_interface_shows_what_may_change_from_run_to_run() -> None:
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    shown = {each.dest for each in parser._actions if getattr(each, "include_in_web_ui", False)}
    assert {"url", "rate", "burst"} <= shown
    assert not {"fail_if", "mix", "pids", "preset"} & shown
    assert shown == options._IN_WEB


def test_only_wss_is_spoken() -> None:
    with pytest.raises(OptionProblem, match="no wss URL"):
        options.fleet_settings(parsed("--url", "https://gw.example/"), "")


def test_a_preset_is_found_anywhere_on_the_command_line() -> None:
    assert options.chosen_preset(["-u", "5", "--preset", "soak", "--headless"]) == "soak"
    assert options.chosen_preset(["--preset=chat"]) == "chat"
    assert options.chosen_preset(["-u", "5"]) == ""


def test_a_preset_gives_defaults_that_the_command_line_overrides() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-u", "--users", type=int, dest="num_users")
    parser.add_argument("-r", "--spawn-rate", type=float)
    parser.add_argument("-t", "--run-time")
    options.add_options(parser)
    options.use_preset(parser, "soak")
    found = parser.parse_args(["--rate", "9"])
    assert (found.num_users, found.run_time, found.rate) == (2000, "10m", 9.0)
    assert found.mix.startswith("Chat=70 ")
    assert parser.parse_args(["-u", "3"]).num_users == 3


def test_every_preset_has_options_that_exist() -> None:
    parser = argparse.ArgumentParser()
    for text in ("--users", "--spawn-rate", "--run-time"):
        parser.add_argument(text)
    options.add_options(parser)
    for name in tomllib.loads(options.PRESETS.read_text()):
        options.use_preset(parser, name)


def test_an_option_that_does_not_exist_is_named(tmp_path: Path) -> None:
    file = tmp_path / "presets.toml"
    file.write_text("[one]\nspeed = 5\n")
    parser = argparse.ArgumentParser()
    with pytest.raises(OptionProblem, match="no option --speed"):
        options.use_preset(parser, "one", file)


def test_an_unknown_preset_names_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "presets.toml"
    file.write_text("[one]\n[two]\n")
    with pytest.raises(OptionProblem, match="one, two"):
        options.read_preset("three", file)


def test_a_mix_is_read() -> None:
    assert options.parse_mix("Chat=8 IqPing", ["Chat", "IqPing"]) == {"Chat": 8, "IqPing": 1}
    with pytest.raises(OptionProblem, match="no scenario"):
        options.parse_mix("Chat=8 Dance=1", ["Chat"])
    with pytest.raises(OptionProblem, match="no number"):
        options.parse_mix("Chat=often", ["Chat"])


def test_processes_are_named() -> None:
    assert options.parse_pids("sink=12 redis=34") == {"sink": 12, "redis": 34}
    with pytest.raises(OptionProblem, match="name=pid"):
        options.parse_pids("12")
