"""The certificates that a TLS peer has shown, taken out of OpenSSL as bytes.

OpenSSL keeps them as long as the connection, parsed, with decoded keys: 5 KiB each, of which it
needs nothing after the handshake, as we resume and renegotiate nothing. So they are read once, and
what OpenSSL holds is overwritten with an empty certificate: 1.2 KiB each (bench: 7 KiB a session).
"""

from functools import lru_cache
from typing import Any

from cryptography import x509
from OpenSSL._util import ffi, lib

# Larger ones are nobody's intermediate: they are not kept for others.
_LARGEST_SHARED = 4096


def take_chain(ssl: Any) -> tuple[bytes, ...]:
    """What the peer has shown, in DER, leaf first; empty when it has shown nothing.

    `ssl` is OpenSSL's connection, its handshake complete; it has no certificates afterwards.
    """
    leaf = lib.SSL_get_peer_certificate(ssl)
    if leaf == ffi.NULL:
        return ()
    certificates = [leaf]
    chain = lib.SSL_get_peer_cert_chain(ssl)
    if chain != ffi.NULL:
        # OpenSSL gives clients the chain with the leaf and servers the chain without it.
        every = [lib.sk_X509_value(chain, index) for index in range(lib.sk_X509_num(chain))]
        certificates += [each for each in every if each != leaf]
    taken = tuple(map(_encoded, certificates))
    for each in certificates:
        _empty(each)
    lib.X509_free(leaf)
    return (taken[0], *map(_shared, taken[1:]))


def parse_chain(chain: tuple[bytes, ...]) -> list[x509.Certificate]:
    """Empty as well if one of them is not DER that cryptography accepts."""
    try:
        parsed = [x509.load_der_x509_certificate(each) for each in chain]
    except (ValueError, x509.InvalidVersion):
        return []
    return parsed[:1] + [each for each in parsed[1:] if each != parsed[0]]


def _shared(encoded: bytes) -> bytes:
    """Intermediates are the same for many peers."""
    return _one_of_many(encoded) if len(encoded) <= _LARGEST_SHARED else encoded


@lru_cache(maxsize=256)
def _one_of_many(encoded: bytes) -> bytes:
    return encoded


def _encoded(certificate: Any) -> bytes:
    bio = lib.BIO_new(lib.BIO_s_mem())
    try:
        if lib.i2d_X509_bio(bio, certificate) != 1:
            raise MemoryError  # it was parsed from just these bytes
        data = ffi.new("char **")
        size = lib.BIO_get_mem_data(bio, data)
        return ffi.unpack(data[0], size)  # type: ignore[no-any-return]
    finally:
        lib.BIO_free(bio)


def _empty(certificate: Any) -> None:
    """Parse the empty one into the place of this one, which d2i functions are made for."""
    # A failure would cost a reference: it must not be one of OpenSSL's own.
    lib.X509_up_ref(certificate)
    bio = lib.BIO_new_mem_buf(_NOTHING, len(_NOTHING))
    place = ffi.new("X509 **", certificate)
    is_done = lib.d2i_X509_bio(bio, place) != ffi.NULL
    lib.BIO_free(bio)
    if not is_done:
        raise MemoryError  # there is no other reason
    lib.X509_free(certificate)


def _element(tag: int, *content: bytes) -> bytes:
    """DER of less than 128 bytes."""
    joined = b"".join(content)
    return bytes((tag, len(joined))) + joined


def _empty_certificate() -> bytes:
    """RFC 5280 §4.1 with nothing in it. The algorithm is none (ISO's 1.2), but OpenSSL has its OID:
    one that it does not know would take 0.2 KiB more.
    """
    algorithm = _element(0x30, _element(0x06, b"\x2a"))
    name = _element(0x30)
    time = _element(0x17, b"700101000000Z")
    nothing = _element(0x03, b"\0")
    number = _element(0x02, b"\1")
    validity, key = _element(0x30, time, time), _element(0x30, algorithm, nothing)
    content = _element(0x30, number, algorithm, name, validity, name, key)
    return _element(0x30, content, algorithm, nothing)


_NOTHING = _empty_certificate()
