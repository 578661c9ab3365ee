"""Asks a domain for its host-meta: the JSON document and, when it has no answer, the XRD."""

from workers.gateway.fetching import BadAnswer, Fetcher, FetchFailed, Get, NotFound, Unavailable
from workers.gateway.hostmeta import (
    JSON_PATH,
    XRD_PATH,
    HostMeta,
    InvalidHostMeta,
    parse_json,
    parse_xrd,
)


class Absent(FetchFailed):
    """The domain says, over verified HTTPS, that it offers no s2s over WebSocket."""


async def look_up(fetcher: Fetcher, domain: str, *, asker: str = "") -> HostMeta:
    """The domain's document, with at least one target.

    Raises `Absent`, `Unavailable` (no answer, or one that makes no sense) or `Busy`.
    `asker`: see `Fetcher.turn`.
    """
    async with fetcher.turn(domain, asker=asker) as get:
        return await _ask(get, domain)


async def _ask(get: Get, domain: str) -> HostMeta:
    unclear = ""
    try:
        document = parse_json(await get(f"https://{domain}{JSON_PATH}"))
        if document.targets:
            return document
        if document.problems:
            unclear = f"host-meta.json of {domain}: {document.problems[0]}"
        elif document.is_complete:
            raise Absent(f"host-meta.json of {domain} lists no s2s WebSocket")
    except InvalidHostMeta as exc:
        unclear = f"host-meta.json of {domain}: {exc}"
    except BadAnswer as exc:
        unclear = exc.reason
    except NotFound:
        pass
    try:
        document = parse_xrd(await get(f"https://{domain}{XRD_PATH}"))
        if document.targets:
            return document
    except BadAnswer as exc:
        unclear = unclear or exc.reason
    except (InvalidHostMeta, NotFound):
        pass
    if unclear:
        raise Unavailable(unclear)
    raise Absent(f"{domain} publishes no s2s WebSocket in its host-meta")
