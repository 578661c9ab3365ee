"""What an HTTPS proxy before us tells of the peer behind it: its address and its certificate.

Anybody can send these headers, so they count only from the networks in `websocket.trusted_proxies`;
from all others they are as good as not sent. Whoever proves a domain by a forwarded certificate is
judged in `identity.py`, like one whose certificate TLS has shown us.
"""

import base64
import binascii
import logging
import re
import urllib.parse
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from cryptography import x509
from websockets.datastructures import Headers

from workers.gateway.addresses import Networks

log = logging.getLogger(__name__)

_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/]*={0,2}):(?:;.*)?")
_PEM = re.compile(r"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([0-9.]+):\d+")


class ForwardedRefused(Exception):
    """A trusted proxy has sent what we cannot use; the text is for the operator."""


class TrustedProxies:
    """The proxies that may speak of peers, and how they write a certificate."""

    def __init__(self, networks: Sequence[str] = (), certificate_header: str = "") -> None:
        """The header's name chooses its format, see `websocket.client_certificate_header`."""
        self._networks = Networks(networks)
        self._header = certificate_header
        self._read = _FORMATS.get(certificate_header.lower(), _read_escaped_pem)

    def trusts(self, address: str) -> bool:
        return address in self._networks

    def address_of_peer(self, sender: str, headers: Headers) -> str:
        """The peer of a request that `sender` handed to us: by X-Forwarded-For, else `sender`.

        Each proxy appends whom it was called by, so the last one that is no trusted proxy counts,
        and nothing before it.
        """
        found = sender
        forwarded = ",".join(headers.get_all("X-Forwarded-For")).split(",")
        while forwarded and found in self._networks:
            address = _address(forwarded.pop())
            if not address:
                break
            found = address
        return found

    def forwards_certificates(self, sender: str) -> bool:
        """Only the header speaks of the peer's certificate then: what TLS shows is the proxy's."""
        return bool(self._header) and self.trusts(sender)

    def chain(self, headers: Headers) -> list[x509.Certificate]:
        """The peer's certificates, unverified, leaf first; empty when it has shown none.

        Raises `ForwardedRefused`. Ask `forwards_certificates` first.
        """
        values = headers.get_all(self._header)
        if len(values) > 1:
            raise ForwardedRefused(f"{self._header} came more than once")
        if not values or not values[0].strip(" :"):
            return []  # RFC 9440 §2.4: no header; proxies with templates send an empty value
        try:
            chain = self._read(values[0], headers)
        except ValueError as exc:
            raise ForwardedRefused(f"{self._header}: {exc}") from exc
        try:
            return [x509.load_der_x509_certificate(der) for der in chain]
        except (ValueError, x509.InvalidVersion) as exc:
            # The proxy's TLS has taken what cryptography cannot read: as without a proxy, it is
            # the same as having none.
            log.info("%s has a certificate that cannot be read: %s", self._header, exc)
            return []


def _read_rfc9440(value: str, headers: Headers) -> list[bytes]:
    """`Client-Cert` is the leaf, `Client-Cert-Chain` the rest (RFC 9440 §2.2, §2.3)."""
    chain = ",".join(headers.get_all("Client-Cert-Chain"))
    rest = [_byte_sequence(item) for item in chain.split(",") if item.strip(" :")]
    # COMPAT(HAProxy): ssl_c_chain_der has all certificates in one byte sequence.
    return [_byte_sequence(value), *(der for item in rest for der in _split_der(item))]


def _byte_sequence(text: str) -> bytes:
    """RFC 8941 §3.3.5; parameters are allowed and mean nothing."""
    found = _BYTE_SEQUENCE.fullmatch(text.strip())
    if found is None:
        raise ValueError("not a byte sequence of RFC 8941, such as :MIIB...:")
    return _decode(found[1])


def _split_der(data: bytes) -> list[bytes]:
    """Cut concatenated DER SEQUENCEs."""
    found = []
    while data:
        size = 2
        length = data[1] if len(data) > 1 else 0
        if length & 0x80:
            size += length & 0x7F
            length = int.from_bytes(data[2:size])
        if data[0] != 0x30 or size + length > len(data):
            raise ValueError("Client-Cert-Chain is not a list of certificates")
        found.append(data[: size + length])
        data = data[size + length :]
    return found


def _read_traefik(value: str, _headers: Headers) -> list[bytes]:
    """The whole chain: base64 without PEM's armour, joined by commas, in some versions escaped."""
    return [_decode(item.strip()) for item in urllib.parse.unquote(value).split(",")]


def _read_escaped_pem(value: str, _headers: Headers) -> list[bytes]:
    """PEM in URL escapes, as nginx's $ssl_client_escaped_cert writes it; one or more."""
    text, position, found = urllib.parse.unquote(value), 0, []
    while position < len(text):
        block = _PEM.match(text, position)
        if block is None:
            raise ValueError("not PEM in URL escapes")
        found.append(_decode("".join(block[1].split())))
        position = block.end()
    return found


def _decode(text: str) -> bytes:
    if not text:
        raise ValueError("an empty certificate")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"not base64: {exc}") from exc


_FORMATS: dict[str, Callable[[str, Headers], list[bytes]]] = {
    "client-cert": _read_rfc9440,
    "x-forwarded-tls-client-cert": _read_traefik,
}


def _address(text: str) -> str:
    """An entry of X-Forwarded-For, with a port or without; "" for what is no address."""
    text = text.strip()
    with_port = _WITH_PORT.fullmatch(text)
    try:
        return str(ip_address(text if with_port is None else with_port[1] or with_port[2]))
    except ValueError:
        return ""
