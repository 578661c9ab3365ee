"""One TLS connection without I/O: bytes from the network in, bytes for the network out.

Nothing here knows sockets or loops; `channel.py` moves the bytes. OpenSSL is pyOpenSSL's, because
Python's own ssl refuses serverAuth-only client certificates before anybody can look at them.
"""

from cryptography import x509
from OpenSSL import SSL

# What one call hands to OpenSSL or takes from it. A memory BIO keeps the size of its largest
# moment for the life of the connection, so large reads and writes go through in slices.
_SLICE = 32768
# The most that one record holds (RFC 8446 §5.1).
RECORD = 16384


class TLSFailed(Exception):
    """The handshake or a record failed: the text is OpenSSL's reason. The connection is over."""


class TLSEngine:
    """One side of a TLS connection. Write what `data_to_send` returns after every other call."""

    __slots__ = ("_connection", "_outgoing", "established", "peer_closed", "record_sizes")

    def __init__(self, context: SSL.Context, *, server: bool, server_name: str | None = None):
        self._connection = SSL.Connection(context, None)
        self._outgoing: list[bytes] = []
        self.established = False
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
            self.established = True
        return True

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the network, return what they decrypt to, if any. Raises `TLSFailed`.

        After the peer's close_notify `peer_closed` is true and nothing more is returned.
        """
        connection = self._connection
        plaintext: list[bytes] = []
        view = memoryview(data)
        for start in range(0, len(data), _SLICE):
            piece = view[start : start + _SLICE]
            while piece:
                piece = piece[connection.bio_write(piece) :]
            if not self.handshake():
                continue
            if not self._read_into(plaintext):
                break
        self._collect()
        if len(plaintext) == 1:
            self.record_sizes = ()
            return plaintext[0]
        self.record_sizes = tuple(map(len, plaintext))
        return b"".join(plaintext)

    def _read_into(self, plaintext: list[bytes]) -> bool:
        """Decrypt all complete records; false when the peer has sent its last one."""
        receive = self._connection.recv
        try:
            while True:
                plaintext.append(receive(RECORD))
        except SSL.WantReadError:
            return True
        except SSL.ZeroReturnError:
            self.peer_closed = True
            return False
        except SSL.Error as exc:
            self._collect()
            raise TLSFailed(_reason(exc)) from exc

    def send(self, data: bytes) -> None:
        """Encrypt, in records of 16 KiB. Only after the handshake. Raises `TLSFailed`."""
        view = memoryview(data)
        try:
            for start in range(0, len(data), _SLICE):
                self._connection.sendall(view[start : start + _SLICE])
                self._collect()
        except SSL.Error as exc:
            raise TLSFailed(_reason(exc)) from exc

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
        outgoing = self._outgoing
        if not outgoing:
            return b""
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        return data

    def _collect(self) -> None:
        try:
            while True:
                self._outgoing.append(self._connection.bio_read(_SLICE + 1024))
        except SSL.WantReadError:
            return

    def peer_chain(self) -> list[x509.Certificate]:
        """The certificates the peer presented, leaf first, unverified; empty when it has none."""
        try:
            leaf = self._connection.get_peer_certificate(as_cryptography=True)
            chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        except ValueError:
            return []  # not DER that cryptography accepts: the same as having none
        if leaf is None:
            return []
        # OpenSSL gives clients the chain with the leaf and servers the chain without it.
        return [leaf, *(certificate for certificate in chain if certificate != leaf)]

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
