import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from coordinator.admin.guard import why_refused

NAMES = ("gw1.internal",)


def refused(*headers: tuple[str, str], path: str = "/api/status") -> str | None:
    request = make_mocked_request("GET", path, headers=CIMultiDict(headers))
    return why_refused(request, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:5290", "localhost:5290", "localhost", "LOCALHOST", "[::1]:5290"),
        *("10.77.0.1:5290", "gw1.internal:5290"),
    ],
)
def test_addresses_and_own_names_are_served(host: str) -> None:
    assert refused(("Host", host)) is None
    assert refused(("Host", host), ("Origin", f"http://{host}")) is None


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:5290",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
        ),
        *("127.0.0.1:5290.evil.example", "localhost:1:2", "[::1]x", "127.0.0.1:", "localhost\n"),
        *("[::1", "a@localhost", "localhost/", "gw1.internal."),
    ],
)
def test_other_names_are_not(host: str) -> None:
    assert "admin.names" in (refused(("Host", host)) or "")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "ftp://localhost:5290", ""]
)
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    assert "other sites" in (refused(("Host", "localhost:5290"), ("Origin", origin)) or "")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "what?"])
def test_what_browsers_say_of_other_sites_is_heard(site: str) -> None:
    host, said = ("Host", "localhost:5290"), ("Sec-Fetch-Site", site)
    assert refused(host, said) is not None
    assert refused(host, said, path="/") is not None
    link = ("Sec-Fetch-Mode", "navigate")
    assert refused(host, said, link, path="/") is None
    assert refused(host, said, link) is not None
    assert refused(host, ("Sec-Fetch-Site", "same-origin")) is None


@pytest.mark.parametrize(
    ("version", "path", "headers", "is_answered"),
    [
        (HttpVersion10, "/livez", (), True),
        (HttpVersion10, "/readyz", (), True),
        (HttpVersion10, "/api/status", (), False),
        (HttpVersion10, "/", (), False),
        (HttpVersion11, "/readyz", (), False),
        (HttpVersion10, "/readyz", (("Host", "evil.example"),), False),
        (HttpVersion10, "/readyz", (("Origin", "http://evil.example"),), False),
        (HttpVersion10, "/readyz", (("Sec-Fetch-Site", "cross-site"),), False),
    ],
)
def test_health_may_be_asked_without_a_name_as_no_browser_does(
    version: HttpVersion, path: str, headers: tuple[tuple[str, str], ...], is_answered: bool
) -> None:
    request = make_mocked_request("GET", path, headers=CIMultiDict(headers), version=version)
    assert (why_refused(request, NAMES) is None) is is_answered


def test_a_header_that_is_there_twice_means_nothing() -> None:
    assert refused(("Host", "localhost"), ("Host", "evil.example")) is not None
    good = "http://localhost"
    assert refused(("Host", "localhost"), ("Origin", good), ("Origin", "http://evil")) is not None
