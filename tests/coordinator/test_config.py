import dataclasses
from typing import Any, get_type_hints

from coordinator.config import Config, Local, Remote


def test_every_option_has_help_and_a_default_of_its_kind() -> None:
    hints = get_type_hints(Config)
    for section in dataclasses.fields(Config):
        record: Any = Remote if section.name == "remote" else hints[section.name]
        for field in dataclasses.fields(record):
            assert field.metadata["help"], f"{section.name}.{field.name}"
            choices = field.metadata["choices"]
            default = field.default if isinstance(field.default, tuple) else (field.default,)
            assert not choices or set(default) <= set(choices), f"{section.name}.{field.name}"


def test_a_remote_domain_has_its_own_policy_else_the_default_one() -> None:
    config = Config(remote={"a.example": Remote(block=True), "*": Remote(auth=("external",))})

    assert config.remote_for("a.example").block
    assert config.remote_for("b.example").auth == ("external",)
    assert Config().remote_for("b.example") == Remote()


def test_with_components_only_declared_domains_are_served() -> None:
    remote = {"a.example": Remote(auth=("dialback",)), "*": Remote()}
    config = Config(local=Local(attach="component"), remote=remote)

    assert config.remote_for("a.example").auth == ("dialback",)
    assert config.remote_for("b.example").block


def test_a_remote_domain_may_have_authorities_of_its_own() -> None:
    config = Config(remote={"a.example": Remote(trust="/a.pem")})

    assert config.trust_for("a.example") == "/a.pem"
    assert config.trust_for("b.example") == "system"


def test_the_local_server_may_differ_by_domain() -> None:
    local = Local(server={"a.example": "127.0.0.1:1", "*": "127.0.0.1:2"})

    assert local.server_for("a.example") == "127.0.0.1:1"
    assert local.server_for("b.example") == "127.0.0.1:2"
    assert Local(server="127.0.0.1:3").server_for("b.example") == "127.0.0.1:3"


def test_dialback_is_of_use_with_a_certificate_or_without() -> None:
    assert Remote().dialback and Remote(auth=("dialback-with-cert",)).dialback
    assert not Remote(auth=("external",)).dialback
