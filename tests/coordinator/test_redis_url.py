import pytest

from coordinator.redis_url import check, shown_url, why_insecure


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@h:1/0", "redis://user:***@h:1/0"),
        ("redis://:secret@h", "redis://:***@h"),
        ("redis://:se/cr@et?#@h:1", "redis://:***@h:1"),
        ("redis://:se\ncret@h:1", "redis://:***@h:1"),
        ("redis://h:1", "redis://h:1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?password=secret&db=1", "unix:///run/redis.sock?password=***&db=1"),
        (
            "redis+sentinel://:secret@h1,h2/main?sentinel_password=secret&a=b",
            "redis+sentinel://:***@h1,h2/main?sentinel_password=***&a=b",
        ),
        ("", ""),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "url", ["redis://:se/cret@h:1", "redis://:secret@h:port", "http://:secret@h", "redis://h1,h2:x"]
)
def test_a_wrong_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        check(url)
    assert "secret" not in str(caught.value) and "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "unix:///run/redis.sock",
        "redis://127.0.0.1:6379",
        "redis://localhost",
        "redis://[::1]:6379",
        "redis+sentinel://127.0.0.1:1,127.0.0.2:2/main",
        "rediss://:secret@redis.example",
        "rediss://redis.example?ssl_certfile=/x.pem",
        "rediss+cluster://user:secret@10.0.0.1,10.0.0.2",
        "rediss+sentinel://:secret@10.0.0.1/main",
        "rediss://redis.example?password=secret",
        "rediss://:secret@redis.example?ssl_check_hostname=true",
    ],
)
def test_what_is_here_or_protected_is_well(url: str) -> None:
    assert check(url or "unix:///x") and why_insecure(url) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://10.0.0.1", "no TLS"),
        ("redis://:secret@redis.example", "no TLS"),
        ("redis+cluster://127.0.0.1,10.0.0.1", "no TLS"),
        ("rediss://redis.example", "password"),
        ("rediss+sentinel://10.0.0.1/main?sentinel_password=x", "password"),
        ("rediss://:secret@redis.example?ssl_cert_reqs=none", "verify"),
        ("rediss://:secret@redis.example?ssl_check_hostname=false", "verify"),
    ],
)
def test_what_others_can_read_or_change_is_not(url: str, reason: str) -> None:
    assert reason in (why_insecure(url) or "")
