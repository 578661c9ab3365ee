import json
import re
import tomllib
from pathlib import Path

from coordinator.config import Certificates, Config, Gateway, Limits, Local, Pair, Redis, Remote
from coordinator.configfile import from_table, known_keys
from coordinator.configtext import REDACTED, as_dict, example, render, toml


def test_what_is_printed_reads_back_as_the_same_configuration() -> None:
    config = from_table(
        {
            "gateway": {"domains": ["a.example"], "name": 'quo"te\\ \x7f é'},
            "certificates": {"pairs": [{"certificate": "/c", "key": "/k"}]},
            "local": {"server": {"*": "127.0.0.1:5269"}},
            "limits": {"idle_timeout": 0.25 + 300, "connect_timeout": 1e7},
            "remote": {"b.example": {"block": True}, "*": {"auth": "external"}},
        },
        Path("/"),
    )

    assert from_table(tomllib.loads(render(config)), Path("/")) == config


def test_secrets_and_passwords_are_left_out() -> None:
    config = Config(
        local=Local(secret="hush"), redis=Redis(url="rediss://user:hush@redis.example/0")
    )

    for text in (render(config), json.dumps(as_dict(config))):
        assert "hush" not in text
        assert REDACTED in text
        assert "rediss://user:***@redis.example/0" in text
    assert REDACTED not in render(Config(redis=Redis(url="redis://h1")))


def test_the_table_form_is_json_able() -> None:
    config = Config(
        gateway=Gateway(domains=("a.example",)),
        certificates=Certificates(pairs=(Pair(certificate="c", key="k"),)),
        remote={"b.example": Remote(block=True)},
    )

    table = json.loads(json.dumps(as_dict(config)))

    assert table["gateway"]["domains"] == ["a.example"]
    assert table["certificates"]["pairs"] == [{"certificate": "c", "key": "k"}]
    assert table["remote"]["b.example"]["block"] is True


def test_the_example_names_every_option_and_can_be_loaded() -> None:
    text = example()

    for key in known_keys():
        word = key.rpartition(".")[2]
        assert f"{word} = " in text, key
    config = from_table(tomllib.loads(text), Path("/"))
    assert config.gateway.domains == ("example.org", "rooms.example.org")
    assert config.limits == Limits()


def test_the_examples_own_lines_are_valid_when_uncommented() -> None:
    lines = re.findall(r"^(?:# )?(\w+ = .*)$", example(), re.MULTILINE)

    assert len(lines) == len(list(known_keys())) - 1  # the two of a pair are on one line
    for line in lines:
        tomllib.loads(line)


def test_values_are_written_as_toml() -> None:
    assert toml(True) == "true"
    assert toml(25.0) == "25"
    assert toml(0.5) == "0.5"
    assert toml({"a b": 1}) == '{ "a b" = 1 }'


def test_our_own_processes_get_the_secrets() -> None:
    config = Config(
        gateway=Gateway(domains=("a.example",), name="gw"),
        local=Local(secret="hush"),
        redis=Redis(url="rediss://user:hush@redis.example/0"),
    )
    text = render(config, with_secrets=True)
    assert REDACTED not in text
    read = from_table(tomllib.loads(text), Path("/"))
    assert (read.local, read.redis) == (config.local, config.redis)
