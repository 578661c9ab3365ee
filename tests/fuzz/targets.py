"""All targets by name. Each module has `check`, which raises for what must not be, and `SEEDS`."""

from collections.abc import Callable
from types import ModuleType

from tests.fuzz import (
    dns_messages,
    documents,
    forwarded_headers,
    frames,
    message_parser,
    stream_headers,
    streams,
    tcp_parser,
)

_MODULES: tuple[ModuleType, ...] = (
    *(tcp_parser, message_parser, streams, frames),
    *(stream_headers, documents, forwarded_headers, dns_messages),
)
CHECKS: dict[str, Callable[[bytes], None]] = {
    module.__name__.rpartition(".")[2]: module.check for module in _MODULES
}
SEEDS: dict[str, list[bytes]] = {
    module.__name__.rpartition(".")[2]: module.SEEDS for module in _MODULES
}
