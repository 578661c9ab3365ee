from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import reload
from coordinator.config import Config, Gateway, Limits, Local, Redis, Remote, WebSocket
from coordinator.configfile import known_keys, load
from coordinator.reload import ReloadRefused, changed, merged

OLD = Config(
    gateway=Gateway(domains=("a.example",), name="gw"),
    local=Local(secret="hush"),
    remote={"b.example": Remote()},
)
NEW = replace(
    OLD,
    gateway=Gateway(domains=("a.example", "c.example"), name="gw", drain_timeout=9.0),
    websocket=WebSocket(path="/elsewhere"),
    limits=Limits(depth=40, connects=5),
    redis=Redis(url="redis://h"),
    remote={"b.example": Remote(block=True), "d.example": Remote()},
)


def test_every_key_that_changed_is_named_with_what_it_needs():
    change = changed(OLD, NEW)
    assert change.live == (
        "gateway.drain_timeout",
        'remote."b.example"',
        'remote."d.example"',
        "limits.depth",
    )
    assert change.inner == ("websocket.path", "limits.connects")
    assert change.outer == ("gateway.domains", "redis.url")
    assert str(change) == (
        'in force: gateway.drain_timeout, remote."b.example", remote."d.example", limits.depth; '
        "needs `fedgate restart`: websocket.path, limits.connects; "
        "needs a stop and a start of fedgate: gateway.domains, redis.url"
    )
    assert str(changed(OLD, OLD)) == "the configuration is as it was"


def test_only_what_is_named_is_taken_over():
    live = merged(OLD, NEW, "live")
    assert (live.limits.depth, live.gateway.drain_timeout) == (40, 9.0)
    assert live.remote == NEW.remote
    assert live.websocket == OLD.websocket
    assert (live.gateway.domains, live.redis) == (OLD.gateway.domains, OLD.redis)
    inner = merged(OLD, NEW, "live", "inner")
    assert changed(inner, NEW).inner == () == changed(inner, NEW).live
    assert changed(inner, NEW).outer == ("gateway.domains", "redis.url")


def test_the_lists_name_real_keys():
    keys = {key.replace("remote.*.", "remote.") for key in known_keys()}
    sections = {key.partition(".")[0] + ".*" for key in keys}
    assert keys | sections | {"limits.connects"} >= reload.LIVE | reload.OUTER | reload.INNER


def test_parts_that_hold_a_configuration_see_the_new_values():
    held = replace(OLD)
    held.become(merged(held, NEW, "live"))
    assert held.limits.depth == 40
    assert held.remote_for("b.example").block


def test_what_workers_start_with_is_the_whole_configuration(tmp_path: Path):
    path = tmp_path / "accepted.toml"
    config = replace(OLD, websocket=WebSocket(public_url="wss://a.example/xmpp-s2s"))
    reload.write_accepted(path, config)
    assert load(str(path)).local.secret == "hush"
    assert changed(load(str(path)), config) == changed(config, config)
    assert path.stat().st_mode & 0o777 == 0o600


def test_broken_files_are_refused_with_the_cause(tmp_path: Path):
    file = tmp_path / "fedgate.toml"
    file.write_text('[gateway]\ndomains = ["a.example"]\nworkers = "many"\n')
    with pytest.raises(ReloadRefused, match=r"gateway\.workers is .many."):
        reload.read(str(file))
    file.write_text(
        '[gateway]\ndomains = ["a.example"]\n[certificates]\n'
        'pairs = [{ certificate = "missing.pem", key = "missing.key" }]\n'
    )
    with pytest.raises(ReloadRefused, match="cannot read the certificate"):
        reload.read(str(file))
