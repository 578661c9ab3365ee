"""What a Redis url says of itself: its servers, what protects it, and how it is shown to people."""

import re
from urllib.parse import parse_qsl, urlsplit

from coordinator.address import is_loopback

SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
HIDDEN = "***"
# Up to the last @, whatever is in a password that should have been escaped.
_LOGIN = re.compile(r"//([^:@/?#]*):.*@", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"(password=)[^&]*")


def check(text: str) -> str:
    """Return the url if it has one of the forms. Raises ValueError, which shows nothing of it."""
    url = urlsplit(text)
    if url.scheme not in SCHEMES or not (url.netloc or url.path):
        raise ValueError(
            "the URL must start with redis://, rediss://, redis+sentinel:// or redis+cluster:// "
            "and name a host; or leave it empty for the embedded Redis"
        )
    try:
        for server in _servers(text):
            _ = urlsplit(f"//{server}").port
    except ValueError:
        raise ValueError(
            "the URL has no host:port where one must be; "
            "write special characters of a password as %XX"
        ) from None
    return text


def shown_url(url: str) -> str:
    """A Redis url without its passwords, for logs and people."""
    return _QUERY_PASSWORD.sub(rf"\1{HIDDEN}", _LOGIN.sub(rf"//\1:{HIDDEN}@", url))


def why_insecure(url: str) -> str | None:
    """Why others on the way, or in the network, could read or change what is in this Redis.

    None if it is on this machine, or has TLS that is verified, and a password or a certificate.
    """
    parts = urlsplit(url)
    if not url or parts.scheme == "unix" or all(map(_is_here, _servers(url))):
        return None
    if not parts.scheme.startswith("rediss"):
        return "it is on another machine and has no TLS (rediss://)"
    query = dict(parse_qsl(parts.query))
    checks_name = query.get("ssl_check_hostname", "true").lower() == "true"
    if query.get("ssl_cert_reqs", "required") != "required" or not checks_name:
        return "its TLS does not verify the server"
    if not (parts.password or query.get("password") or query.get("ssl_certfile")):
        return "it has neither a password nor a client certificate (?ssl_certfile=)"
    return None


def _servers(url: str) -> list[str]:
    return urlsplit(url).netloc.rpartition("@")[2].split(",")


def _is_here(server: str) -> bool:
    return is_loopback(urlsplit(f"//{server}").hostname or "localhost")
