import pytest

from coordinator.config import Admin, Config, Redis
from coordinator.configvalue import ConfigError
from coordinator.exposure import check


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:1", "[::1]:1", "localhost:1", "/run/x.sock", "10.77.0.1:1", "[fd00::1]:1"]
)
def test_the_admin_surface_may_be_local_or_private(listen: str) -> None:
    check(Config(admin=Admin(listen=listen)))


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:1", "[::]:1", "93.184.216.34:1", "[2606:2800::1]:1", "gw.example:1"]
)
def test_all_others_may_reach_it_only_by_an_explicit_yes(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"admin\.allow_remote = true"):
        check(Config(admin=Admin(listen=listen)))
    check(Config(admin=Admin(listen=listen, allow_remote=True)))


def test_a_bare_redis_needs_an_explicit_yes() -> None:
    url = "redis://:secret@10.0.0.1"
    with pytest.raises(ConfigError, match=r"redis\.allow_insecure = true") as caught:
        check(Config(redis=Redis(url=url)))
    assert "secret" not in str(caught.value)
    check(Config(redis=Redis(url=url, allow_insecure=True)))
