"""What proxies tell of peers, in every format, and the PROXY protocol: read, or refused."""

from ipaddress import ip_address

from websockets.datastructures import Headers, is_valid_header_value

from tests.fuzz.reading import pieces
from workers.gateway.forwarded import ForwardedRefused, TrustedProxies
from workers.gateway.proxy_protocol import InvalidProxyHeader, read_header

NAMES = ("Client-Cert", "X-Forwarded-Tls-Client-Cert", "X-SSL-Client-Cert")
DER = b"MIIBCgKCAQEA"
SEEDS = [
    b":" + DER + b":\n:" + DER + b":, :" + DER + b":\n192.0.2.1, 10.0.0.1",
    DER + b"," + DER + b"\n\n[2001:db8::1]:443, 10.0.0.2",
    b"-----BEGIN%20CERTIFICATE-----%0A" + DER + b"%0A-----END%20CERTIFICATE-----\n\nunknown",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n<",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(range(12)),
]


def check(data: bytes) -> None:
    _check_headers(data)
    _check_proxy_protocol(data)


def _check_headers(data: bytes) -> None:
    value, _, rest = data.decode("latin-1").partition("\n")
    chain, _, forwarded = rest.partition("\n")
    if not all(map(is_valid_header_value, (value, chain, forwarded))):
        return  # no header: websockets refuses the request
    for name in NAMES:
        headers = Headers({name: value, "X-Forwarded-For": forwarded})
        if chain:
            headers["Client-Cert-Chain"] = chain
        proxies = TrustedProxies(["10.0.0.0/8"], name)
        ip_address(proxies.address_of_peer("10.0.0.1", headers).partition("%")[0])
        assert proxies.address_of_peer("192.0.2.9", headers) == "192.0.2.9"
        try:
            proxies.chain(headers)
        except ForwardedRefused as exc:
            assert str(exc)


def _check_proxy_protocol(data: bytes) -> None:
    """Whole or in pieces: the same header, and never one byte of what follows it."""
    seen = b""
    for piece in pieces(data):
        seen += piece
        try:
            found = read_header(seen)
        except InvalidProxyHeader:
            return
        if found is not None:
            assert found[0] <= len(seen)
            assert read_header(data) == found
            return
