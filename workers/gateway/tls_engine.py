"""One TLS connection without I/O: bytes from the network in, bytes for the network out.

Nothing here knows sockets or loops; `channel.py` moves the bytes. OpenSSL is pyOpenSSL's, because
Python's own ssl refuses serverAuth-only client certificates before anybody can look at them.

Records go past pyOpenSSL's methods to the C functions below them: 2 µs of CPU for one that leaves
and 3 for one that comes, where the methods take 5.4 and 6.7. They tell "nothing is there" by an
exception, at least once for each.
"""

from dataclasses import dataclass

from cryptography import x509
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from workers.gateway.certificates import KeyPair
from workers.gateway.peer_certificates import parse_chain, take_chain

_NULL = ffi.NULL
_chars = ffi.typeof("char[]")
# A new buffer for each use (0.16 µs): threads share the module, and OpenSSL lets others run.
_new_buffer = ffi.new_allocator(should_clear_after_alloc=False)

# The most that one record holds (RFC 8446 §5.1).
RECORD = 16384
# What OpenSSL is given or asked for at once. A memory BIO keeps the size of its largest moment for
# the life of the connection, so large reads and writes go through in slices.
_SLICE = RECORD + 1024
# What leaves nothing worth mention in a memory BIO.
_SMALL = 2048


class TLSFailed(Exception):
    """The handshake or a record failed: the text is OpenSSL's reason. The connection is over."""


@dataclass(frozen=True, slots=True)
class LeafContext:
    """A context that many connections share, and the certificate that this one presents.

    A context of its own would take 25 KiB; the certificate is forgotten after the handshake.
    """

    shared: SSL.Context
    pair: KeyPair
    """Of a leaf alone: what is above it must be known to the peer."""


TLSContext = SSL.Context | LeafContext

_WITHOUT_CERTIFICATE = SSL.Context(SSL.TLS_METHOD)


class TLSEngine:
    """One side of a TLS connection. Write what `data_to_send` returns after every other call."""

    __slots__ = (
        "_connection",
        "_has_leaf",
        "_is_new",
        "_is_swollen",
        "_peer_chain",
        "established",
        "outgoing",
        "peer_closed",
        "record_sizes",
    )

    def __init__(self, context: TLSContext, *, server: bool, server_name: str | None = None):
        self._has_leaf = isinstance(context, LeafContext)
        if isinstance(context, LeafContext):
            self._connection = SSL.Connection(context.shared, None)
            self._connection.use_certificate(context.pair.chain[0])
            self._connection.use_privatekey(context.pair.key)
        else:
            self._connection = SSL.Connection(context, None)
        self.outgoing: list[bytes] = []
        """What `data_to_send` takes."""
        self.established = self._is_swollen = False
        self._is_new = True
        self._peer_chain: tuple[bytes, ...] = ()
        self.peer_closed = False
        self.record_sizes: tuple[int, ...] = ()
        """Of the records in what `receive` returned last, if they were several."""
        if server:
            self._connection.set_accept_state()
        else:
            if server_name:
                self._connection.set_tlsext_host_name(server_name.encode("ascii"))
            self._connection.set_connect_state()

    def handshake(self) -> bool:
        """Go on with the handshake; true once it is complete. Raises `TLSFailed`."""
        if not self.established:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                return False
            except SSL.Error as exc:
                raise TLSFailed(_reason(exc)) from exc
            finally:
                self._collect()
            self.established = self._is_swollen = True
            self._peer_chain = take_chain(self._connection._ssl)
            # By it callbacks find the connection, and there are none any more: 0.2 KiB.
            del SSL.Connection._reverse_mapping[self._connection._ssl]
            if self._has_leaf:
                # OpenSSL then holds its certificate and key no longer: 7 KiB.
                self._connection.set_context(_WITHOUT_CERTIFICATE)
        return True

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the network, return what they decrypt to, if any. Raises `TLSFailed`.

        After the peer's close_notify `peer_closed` is true and nothing more is returned.
        """
        plaintext: list[bytes] = []
        for start in (0,) if len(data) <= _SLICE else range(0, len(data), _SLICE):
            if not self._read_into(plaintext, data[start : start + _SLICE]):
                break
        if lib.BIO_get_mem_data(self._connection._from_ssl, _NULL):
            self._collect()
        if self._is_new and self.established:
            self._is_new = False
            self.shrink()
        elif len(data) > _SMALL:
            self._is_swollen = True
        if len(plaintext) == 1:
            self.record_sizes = ()
            return plaintext[0]
        self.record_sizes = tuple(map(len, plaintext))
        return b"".join(plaintext)

    def _read_into(self, plaintext: list[bytes], piece: bytes) -> bool:
        """Decrypt all records complete by now; false when the peer has sent its last one."""
        connection = self._connection
        ssl, into = connection._ssl, connection._into_ssl
        if lib.BIO_write(into, piece, len(piece)) != len(piece):
            raise MemoryError  # there is no other reason
        if not (self.established or self.handshake()):
            return True
        buffer = _new_buffer(_chars, RECORD)
        # To ask for a record that is not there would cost 0.6 µs. None is inside OpenSSL: it takes
        # one at a time from the BIO, and a whole one fits in the buffer.
        while lib.BIO_get_mem_data(into, _NULL):
            size = lib.SSL_read(ssl, buffer, RECORD)
            if size > 0:
                plaintext.append(ffi.unpack(buffer, size))
            elif lib.SSL_get_error(ssl, size) == lib.SSL_ERROR_WANT_READ:
                break
            else:
                return self._end_of_records(size)
        return True

    def _end_of_records(self, size: int) -> bool:
        """False if the peer has sent its last one in order. Raises `TLSFailed`."""
        ssl = self._connection._ssl
        try:
            self._connection._raise_ssl_error(ssl, size)
        except SSL.ZeroReturnError:
            self.peer_closed = True
            return False
        except SSL.Error as exc:
            self._collect()
            raise TLSFailed(_reason(exc)) from exc
        raise AssertionError("SSL_read gave nothing and no reason")

    def send(self, data: bytes) -> None:
        """Encrypt, in records of 16 KiB, or of what a peer with little memory has asked for.

        Only after the handshake. Raises `TLSFailed`.
        """
        ssl, start = self._connection._ssl, 0
        if len(data) > _SMALL:
            self._is_swollen = True
        while start < len(data):
            piece = data[start : start + RECORD]
            size = lib.SSL_write(ssl, piece, len(piece))
            if size <= 0:
                try:
                    self._connection._raise_ssl_error(ssl, size)
                except SSL.Error as exc:
                    raise TLSFailed(_reason(exc)) from exc
                raise AssertionError("SSL_write took nothing and gave no reason")
            start += size  # one record: less than the piece by max_fragment_length (RFC 6066 §4)
            self._collect()

    def shutdown(self) -> None:
        """Say close_notify: nothing more will be sent."""
        if self.established:
            try:
                self._connection.shutdown()
            except SSL.Error:
                return  # it has failed before: there is no alert left to say
            self._collect()

    def data_to_send(self) -> bytes:
        """Take the bytes for the network."""
        outgoing = self.outgoing
        if not outgoing:
            return b""
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        return data

    def _collect(self) -> None:
        """Take what OpenSSL wants to have sent."""
        bio = self._connection._from_ssl
        if size := lib.BIO_get_mem_data(bio, _NULL):
            buffer = _new_buffer(_chars, size)
            lib.BIO_read(bio, buffer, size)
            self.outgoing.append(ffi.unpack(buffer, size))

    def shrink(self) -> None:
        """Begin with new memory BIOs: after the handshake, or large records some time ago.

        The old ones are empty: OpenSSL has asked for more, and all that it had written was
        collected. They hold up to 22 KiB each.
        """
        if not self._is_swollen or self.peer_closed:
            return
        self._is_swollen = False
        connection = self._connection
        into = connection._into_ssl = lib.BIO_new(lib.BIO_s_mem())
        outof = connection._from_ssl = lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(connection._ssl, into, outof)  # which frees the old ones

    def peer_chain(self) -> list[x509.Certificate]:
        """The certificates the peer presented, leaf first, unverified; empty when it has none."""
        return parse_chain(self._peer_chain)

    def summary(self) -> str:
        """Protocol version and cipher, such as `TLSv1.3 TLS_AES_256_GCM_SHA384`."""
        return (
            f"{self._connection.get_protocol_version_name()} {self._connection.get_cipher_name()}"
        )


def _reason(exc: SSL.Error) -> str:
    if isinstance(exc, SSL.SysCallError):
        return "the peer ended the connection without close_notify"
    errors = exc.args[0] if exc.args else []
    return "; ".join(entry[-1] for entry in errors) if errors else type(exc).__name__
