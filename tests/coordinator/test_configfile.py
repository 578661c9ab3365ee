import socket
import tomllib
from pathlib import Path

import pytest

from coordinator.config import Config, Pair, Remote
from coordinator.configfile import find, from_table, known_keys, load
from coordinator.configvalue import ConfigError

GATEWAY = '[gateway]\ndomains = ["capulet.example"]\n'
COMPONENT = "[local]\nattach = 'component'\nsecret = 's'\n"


def parse(text: str) -> Config:
    return from_table(tomllib.loads(text), Path("/etc/fedgate"))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_domains_alone_make_a_configuration() -> None:
    config = parse(GATEWAY)

    assert config.gateway.domains == ("capulet.example",)
    assert config.gateway.name == socket.gethostname()
    assert config.websocket.public_url == "wss://capulet.example/xmpp-s2s"
    assert config.local.listen == "127.0.0.1:5271"


def test_a_text_stands_for_a_list_of_one() -> None:
    config = parse('[gateway]\ndomains = "Capulet.example."\n[websocket]\nlisten = "[::1]:8443"')

    assert config.gateway.domains == ("capulet.example",)
    assert config.websocket.listen == ("[::1]:8443",)


def test_relative_paths_start_at_the_file() -> None:
    config = parse(
        '[gateway]\ndomains = "a.example"\nstate_dir = "state"\n'
        '[certificates]\npairs = [{ certificate = "c.pem", key = "/k.pem" }]\n'
        'directories = "certs"\ntrust = "ca.pem"\n[admin]\nlisten = "./admin.sock"\n'
        '[remote."b.example"]\ntrust = "b.pem"\n[cluster]\nsecret_file = "secret"'
    )

    assert config.gateway.state_dir == "/etc/fedgate/state"
    assert config.certificates.pairs == (Pair(certificate="/etc/fedgate/c.pem", key="/k.pem"),)
    assert config.certificates.directories == ("/etc/fedgate/certs",)
    assert config.certificates.trust == "/etc/fedgate/ca.pem"
    assert config.admin.listen == "/etc/fedgate/admin.sock"
    assert config.remote["b.example"].trust == "/etc/fedgate/b.pem"
    assert config.cluster.secret_file == "/etc/fedgate/secret"


def test_the_word_system_is_no_path() -> None:
    assert parse(GATEWAY + '[certificates]\ntrust = "system"').certificates.trust == "system"


def test_remote_tables_are_kept_by_normalised_domain() -> None:
    config = parse(
        GATEWAY + '[remote."Bücher.example"]\nauth = "dialback"\n[remote."*"]\nblock = true'
    )

    assert config.remote == {
        "xn--bcher-kva.example": Remote(auth=("dialback",)),
        "*": Remote(block=True),
    }


def test_the_local_server_may_be_a_table_by_domain() -> None:
    config = parse(GATEWAY + '[local]\nserver = { "Capulet.example" = "10.0.0.1:5269" }')

    assert config.local.server == {"capulet.example": "10.0.0.1:5269"}


def test_whole_numbers_are_taken_for_seconds() -> None:
    config = parse(GATEWAY + "[limits]\nconnect_timeout = 3")

    assert config.limits.connect_timeout == 3.0
    assert isinstance(config.limits.connect_timeout, float)


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[gatway]\nname = 'x'", "gatway", "gateway"),
        ("[gateway]\ndomain = ['a']", "gateway.domain", "gateway.domains"),
        ("domains = ['a']", "domains", "gateway.domains"),
        ("[local]\ndomains = ['a']", "local.domains", "gateway.domains"),
        ("[local]\nsever = 'a:1'", "local.sever", "local.server"),
        ("[limits]\nmax_stanza = 1", "limits.max_stanza", "limits.stanza_bytes"),
        (
            '[remote."b.example"]\ntrsut = "x"',
            'remote."b.example".trsut',
            'remote."b.example".trust',
        ),
        (
            "[certificates]\npairs = [{ certificates = 'x' }]",
            "certificates.pairs.certificates",
            "certificates.pairs.certificate",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(text: str, key: str, nearest: str) -> None:
    assert refusal(text) == f"unknown key {key}; the nearest known key is {nearest}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "gateway.domains is missing"),
        ("[gateway]\ndomains = []", "gateway.domains is missing"),
        ("[gateway]\ndomains = [1]", "gateway.domains is a number (1); it must be text"),
        ("[gateway]\ndomains = 'a..b'", "'a..b' is not a domain name"),
        ("[gateway]\ndomains = ['a', 'A']", "names a twice"),
        ("[gateway]\nworkers = '2'", "must be a whole number"),
        ("[gateway]\nworkers = true", "must be a whole number"),
        ("[gateway]\nworkers = 1.5", "must be a whole number"),
        ("[gateway]\nworkers = -1", "at least 0"),
        ("[gateway]\ndrain_timeout = nan", "at least 0"),
        ("[gateway]\nlog_level = 'loud'", "one of debug, info, warning, error"),
        ("gateway = 1", "must be a table"),
        ("[websocket]\ntls = 'no'", "must be true or false"),
        ("[websocket]\nlisten = '443'", "websocket.listen: '443' is not host:port"),
        ("[websocket]\nlisten = '::1:443'", "[::1]"),
        ("[websocket]\npath = 'x'", "not a path such as /xmpp-s2s"),
        ("[websocket]\npublic_url = 'https://a.example'", "not a URL such as wss://"),
        ("[websocket]\npublic_url = 'wss://a..b/'", "not a domain name"),
        ("[websocket]\npublic_url = 'wss://a:99999/'", "ort"),
        ("[websocket]\ntrusted_proxies = 'proxy'", "write for example 10.0.0.0/8"),
        ("[local]\nserver = ''", "local.server: '' is not host:port"),
        ("[local]\nserver = { 'a' = 1 }", 'local.server."a" is a number'),
        ("[local]\nserver = { 'a b' = 'h:1' }", "write the key as a domain"),
        ("[local]\nattach = 'x'", "one of s2s, component"),
        ("[local]\nupstream_dns = 'dns.example:53'", "must be an IP address"),
        ("[local]\nsecret = 12", "local.secret is text ('…')"),
        ("[admin]\nlisten = '5290'", "admin.listen: '5290' is not host:port"),
        ("[redis]\nurl = 'localhost'", "redis://"),
        ("[limits]\nstanza_bytes = 10", "at least 10000"),
        ("[remote]\nurl = 'wss://x'", "must be a table of keys"),
        ("[[remote]]\nurl = 'wss://x'", 'such as [remote."example.org"]'),
        ("[certificates]\npairs = ['x']", "must be a table of keys: certificate, key"),
        (GATEWAY + "[certificates]\npairs = [{ key = 'x' }]", "lacks its certificate or its key"),
        (GATEWAY + '[remote."capulet.example"]', "remove one of them"),
        (GATEWAY + "[local]\nserver = { 'b' = 'h:1' }", "no address for capulet.example"),
        (GATEWAY + "[local]\nattach = 'component'", "local.secret is empty"),
        (GATEWAY + COMPONENT + "[remote.'*']", "no remote domain is declared"),
        (GATEWAY + "workers = 2\n" + COMPONENT + "[remote.b]", "remove gateway.workers"),
    ],
)
def test_a_mistake_is_told_in_one_line(text: str, told: str) -> None:
    assert told in refusal(text)


def test_components_take_one_worker_and_no_steering(tmp_path: Path) -> None:
    file = tmp_path / "fedgate.toml"
    file.write_text(GATEWAY + COMPONENT + "[remote.'b.example']")

    config = load(str(file))

    assert (config.gateway.workers, config.local.dns) == (1, "")


def test_the_file_is_named_in_front_of_its_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "fedgate.toml"
    file.write_text("[gateway]\nnmae = 1")

    with pytest.raises(ConfigError, match=rf"^{file}: unknown key gateway.nmae"):
        load(str(file))


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "fedgate.toml"
    file.write_text("[gateway\n")
    with pytest.raises(ConfigError, match=r"is not TOML: .*line 1"):
        load(str(file))
    file.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(str(file))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory; give the file with"):
        load(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="Is a directory"):
        load(str(tmp_path))


def test_without_a_path_the_usual_places_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("coordinator.configfile.SEARCHED", ("here.toml", "there.toml"))
    with pytest.raises(ConfigError, match=r"neither here\.toml nor there\.toml exists"):
        find(None)

    (tmp_path / "there.toml").write_text(GATEWAY)

    assert find(None) == Path("there.toml")
    assert load(None).gateway.domains == ("capulet.example",)


def test_all_keys_are_known_in_dotted_form() -> None:
    keys = set(known_keys())

    assert {"gateway.domains", "certificates.pairs.key", "remote.*.url"} <= keys
