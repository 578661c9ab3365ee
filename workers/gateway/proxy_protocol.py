"""The PROXY protocol, versions 1 and 2: a TCP proxy that passes TLS through names the peer first.

Read only from `websocket.trusted_proxies`, before TLS or HTTP, and only if it is there: proxies
that speak HTTP name the peer in headers instead (`forwarded.py`).
"""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from workers.gateway.channel import Channel, ChannelOwner

_SIGNATURE_1 = b"PROXY "
_SIGNATURE_2 = b"\r\n\r\n\x00\r\nQUIT\n"
_LONGEST_1 = 107
# A local connection (a health check), or one that is forwarded.
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESS_BYTES = {0x11: 4, 0x21: 16}  # TCP over IPv4, over IPv6
MAX_HEADER = 2048


class InvalidProxyHeader(ValueError):
    """It begins like the PROXY protocol and does not go on like it."""


def read_header(data: bytes) -> tuple[int, str] | None:
    """(bytes of the header, address of the peer) at the beginning of a connection.

    (0, ""): there is no header. An empty address: the proxy speaks for itself, or for nobody it can
    name. None: more bytes are needed. Raises `InvalidProxyHeader`.
    """
    for signature, read in ((_SIGNATURE_1, _read_1), (_SIGNATURE_2, _read_2)):
        if data.startswith(signature):
            return read(data)
        if signature.startswith(data):
            return None
    return 0, ""


def _read_1(data: bytes) -> tuple[int, str] | None:
    line, end, _ = data[:_LONGEST_1].partition(b"\r\n")
    if not end:
        if len(data) >= _LONGEST_1:
            raise InvalidProxyHeader("a PROXY line without end")
        return None
    size = len(line) + len(end)
    words = line.decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return size, ""
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise InvalidProxyHeader("a strange PROXY line")
    return size, _checked(words[2])


def _read_2(data: bytes) -> tuple[int, str] | None:
    if len(data) < 16:
        return None
    command, family, length = struct.unpack_from("!BBH", data, 12)
    size = 16 + length
    if command not in (_LOCAL, _PROXY) or size > MAX_HEADER:
        raise InvalidProxyHeader("a strange PROXY header")
    if len(data) < size:
        return None
    width = _ADDRESS_BYTES.get(family)
    if command == _LOCAL or width is None:
        return size, ""
    if length < 2 * width + 4:
        raise InvalidProxyHeader("a PROXY header that is too short")
    packed = data[16 : 16 + width]
    return size, str(IPv4Address(packed) if width == 4 else IPv6Address(packed))


def _checked(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise InvalidProxyHeader("a PROXY line without an address") from None


class Introduction:
    """Owns a channel until the first bytes tell whether a PROXY header comes, then gives it back.

    `introduced` is called with the peer's address, "" if the header has none, None without a
    header; it may switch TLS on, or abort the channel. Deadlines are the owner's.
    """

    def __init__(self, channel: Channel, introduced: Callable[[str | None], None]) -> None:
        owner = channel.owner
        assert owner is not None, "a channel has an owner while it is open"
        self._channel = channel
        self._owner: ChannelOwner = owner
        self._introduced = introduced
        self._data = bytearray()
        channel.owner = self

    def connected(self) -> None: ...

    def tls_established(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            found = read_header(bytes(self._data))
        except InvalidProxyHeader as exc:
            self._give_back()
            self._channel.abort(str(exc))
            return
        if found is None:
            return
        size, address = found
        self._give_back()
        self._introduced(address if size else None)
        if rest := bytes(self._data[size:]):
            self._channel.take(rest)

    def _give_back(self) -> None:
        self._channel.owner = self._owner

    def eof_received(self) -> None:
        self._give_back()
        self._owner.eof_received()

    def write_paused(self) -> None: ...

    def write_resumed(self) -> None: ...

    def closed(self, reason: str | None) -> None:
        self._owner.closed(reason)
