"""Keeps web pages out of the admin surface.

Who can connect may ask; but a page in somebody's browser must not use that browser to ask, neither
as another site (Origin, Fetch Metadata) nor under a name of its own that leads here (DNS
rebinding).
"""

import ipaddress
import re
from collections.abc import Collection

from aiohttp import HttpVersion10, web

# Strictly: what is behind the port is overlooked by other parsers.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:\[\]/@]+))(?::[0-9]{1,5})?")
_HEALTH = ("/livez", "/readyz")
_OF_BROWSERS = ("Host", "Origin", "Sec-Fetch-Site")


def why_refused(request: web.BaseRequest, names: Collection[str]) -> str | None:
    """Why not to answer a request; `names` are those we go by, beside addresses and localhost."""
    headers = request.headers
    if any(len(headers.getall(name, ())) > 1 for name in _OF_BROWSERS):
        return "a header is there twice"
    if _is_plain_check(request):
        return None
    host = headers.get("Host", "")
    if not _is_ours(host, names):
        return "this is not the name of an admin surface; see admin.names"
    origin = headers.get("Origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return "pages of other sites may not ask here"
    site = headers.get("Sec-Fetch-Site", "none")
    if site not in ("none", "same-origin") and not _is_link_to_the_page(request):
        return "pages of other sites may not ask here"
    return None


def _is_plain_check(request: web.BaseRequest) -> bool:
    """A load balancer's health check as HAProxy sends it by default: HTTP/1.0 without a Host.

    No browser sends one, so nobody can make a browser ask.
    """
    is_old = request.version == HttpVersion10 and request.path in _HEALTH
    return is_old and not any(name in request.headers for name in _OF_BROWSERS)


def _is_ours(host: str, names: Collection[str]) -> bool:
    """An address cannot be rebound: only a name can lead elsewhere first and then here."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1] or found[2]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name in names
    return True


def _is_link_to_the_page(request: web.BaseRequest) -> bool:
    """The page itself says nothing, and asks from its own origin."""
    return request.path == "/" and request.headers.get("Sec-Fetch-Mode") == "navigate"
