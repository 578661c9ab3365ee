"""What a WebSocket's peer sends, cut into messages (RFC 6455 §5).

Whole text frames, Pings and Pongs are cut by hand; every other frame goes through `websockets`'
sans-I/O protocol, which is the judge of what is legal.
"""

import logging

from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER
from websockets.protocol import Protocol as SansIOProtocol
from websockets.speedups import apply_mask

from workers.gateway.frames import (
    PING_FIN,
    PONG_FIN,
    TEXT_FIN,
    control_frame,
    frame_size,
    with_empty_mask,
)

# The library says at level info that a connection opened; sessions say it better.
LIBRARY_LOG = logging.getLogger(f"{__name__}.library")
LIBRARY_LOG.setLevel(logging.WARNING)

# Frames of less than 126 bytes that are cut in one turn of the loop: half a millisecond. One that
# goes through the library costs as much as some. Of others a read has no more than it may have.
MAX_FRAMES = 64
_UNCOMMON_COST = 4
# Of the frames that a peer sends as a rule, by whether we are the one who masks.
_BEGINNINGS = {True: bytes((TEXT_FIN, 126)), False: bytes((TEXT_FIN, 0x80 | 126))}
# Stands for the protocol of all WebSockets that are open and had no use for one yet: that of the
# handshake takes 2 KiB, a fresh one 1.2. Nothing is ever done to it.
UNTOUCHED = SansIOProtocol(SERVER)


class FrameReader:
    """The half of a WebSocket that reads."""

    __slots__ = (
        "_allow_unmasked",
        "_buffer",
        "_deaf",
        "_expected_beginning",
        "_expected_mask",
        "_masks",
        "_max_message",
        "_message",
        "_needed",
        "_protocol",
        "_through",
        "_uncommon",
    )

    def __init__(self, protocol: SansIOProtocol, *, allow_unmasked: bool) -> None:
        self._protocol = protocol
        self._allow_unmasked = allow_unmasked
        self._masks = protocol.side is not SERVER
        self._expected_mask = 0 if self._masks else 0x80
        self._expected_beginning = _BEGINNINGS[self._masks]
        self._max_message = protocol.max_message_size or 2**20
        # Bytes of an incomplete frame; `_needed` is how many it takes to go on.
        self._buffer = bytearray()
        self._needed = 0
        # Bytes still to come of a frame that the protocol is reading.
        self._through = 0
        # A fragmented message as far as it has come.
        self._message: bytearray | None = None
        # No frame is looked at any more: the peer's Close has come, or we have failed it.
        self._deaf = False
        # Frames of this read that are no message.
        self._uncommon = 0

    def _put_off(self) -> None:
        """What is kept is to be cut in our next turn of the loop."""
        raise NotImplementedError

    def _on_pong(self, payload: bytes, messages: list[bytes]) -> None:
        """A Pong came behind these messages of the read, which are not told yet."""
        raise NotImplementedError

    def _write_pong(self, frame: bytes) -> None:
        raise NotImplementedError

    def _write_protocol(self) -> None:
        """The library's protocol may have something to send."""
        raise NotImplementedError

    def limit_messages(self, max_message: int) -> None:
        """From the next frame on: larger messages, in bytes, end the connection with 1009."""
        self._max_message = max_message
        if self._protocol is not UNTOUCHED:
            self._protocol.max_message_size = max_message

    def _own_protocol(self) -> SansIOProtocol:
        if self._protocol is UNTOUCHED:
            side = CLIENT if self._masks else SERVER
            self._protocol = SansIOProtocol(side, max_size=self._max_message, logger=LIBRARY_LOG)
        return self._protocol

    def _cut(self, data: bytes) -> list[bytes]:
        """Cut a read into messages. Common case first: whole text frames, no fragment open."""
        messages: list[bytes] = []
        position, end, small = 0, len(data), 0
        while position < end and not self._deaf:
            if self._through:
                position = self._pass_through(data, position, messages)
                continue
            if self._protocol.current_size is None:
                position = self._cut_whole(data, position, messages)
                if position == end:
                    break
            header, length = frame_size(data, position)
            if not header:
                self._keep(data, position, 0)
                break
            start = position + header
            stop = start + length
            is_common = self._is_common(data, position, length)
            if is_common and stop > end:
                self._keep(data, position, header + length)
                break
            # Stanzas do not count: the `<r/>` behind 64 of them would have a turn of its own.
            if small + _UNCOMMON_COST * self._uncommon >= MAX_FRAMES:
                self._keep(data, position, 0)
                self._put_off()
                break
            if not is_common:
                if stop <= end and self._take_control(data[position:stop], header, messages):
                    position = stop
                else:
                    position = self._begin_through(data, position, header, length, messages)
                continue
            payload = data[start:stop]
            is_masked = data[position + 1] & 0x80
            messages.append(apply_mask(payload, data[start - 4 : start]) if is_masked else payload)
            small += 1
            position = stop
        return messages

    def _is_common(self, data: bytes, position: int, length: int) -> bool:
        """A whole text frame, masked as it must be, not too large, and no fragment is open."""
        return (
            data[position] == TEXT_FIN
            and (data[position + 1] & 0x80 == self._expected_mask or self._allow_unmasked)
            and length <= self._max_message
            and self._protocol.current_size is None
        )

    def _cut_whole(self, data: bytes, position: int, messages: list[bytes]) -> int:
        """Cut the run of common frames of 126 to 65535 bytes that starts here; where it ends.

        Nearly every stanza is one of these: 0.5 µs a frame instead of 0.8.
        """
        beginning = self._expected_beginning
        masked = self._expected_mask
        largest, last = self._max_message, len(data) - 4
        append = messages.append
        while position < last and data[position : position + 2] == beginning:
            start = position + 4
            length = data[position + 2] << 8 | data[position + 3]
            if length > largest:
                break
            if masked:
                start += 4
            stop = start + length
            if stop > last + 4:
                break
            payload = data[start:stop]
            append(apply_mask(payload, data[start - 4 : start]) if masked else payload)
            position = stop
        return position

    def _keep(self, data: bytes, position: int, needed: int) -> None:
        """Keep an incomplete frame until `needed` bytes are there; 0: until there is more."""
        self._buffer += memoryview(data)[position:]
        self._needed = needed or len(self._buffer) + 1

    def _take_control(self, frame: bytes, header: int, messages: list[bytes]) -> bool:
        """Take a whole Ping or Pong in 2 µs instead of 12; False if it is none, or not legal."""
        kind, second = frame[0], frame[1]
        if (
            (kind != PING_FIN and kind != PONG_FIN)
            or second & 0x7F > 125
            or second & 0x80 != self._expected_mask
            or self._protocol is not UNTOUCHED
        ):
            return False
        self._uncommon += 1
        payload = frame[header:]
        if self._expected_mask:
            payload = apply_mask(payload, frame[header - 4 : header])
        if kind == PONG_FIN:
            self._on_pong(payload, messages)
        else:
            self._write_pong(control_frame(PONG_FIN, payload, mask=self._masks))
        return True

    def _begin_through(
        self, data: bytes, position: int, header: int, length: int, messages: list[bytes]
    ) -> int:
        """Hand the header of an uncommon frame to the protocol; its payload follows as it comes."""
        self._uncommon += 1
        frame_header = data[position : position + header]
        if self._allow_unmasked and not frame_header[1] & 0x80:
            frame_header = with_empty_mask(frame_header)
        if frame_header[0] & 0x0F == Opcode.CLOSE:
            # RFC 6455 §5.4 lets it come between fragments; the library would call that an error.
            self._own_protocol().current_size = None
        self._through = length
        self._feed(frame_header, messages)
        return position + header

    def _pass_through(self, data: bytes, position: int, messages: list[bytes]) -> int:
        piece = data[position : position + self._through]
        if piece:
            self._through -= len(piece)
            self._feed(piece, messages)
        return position + len(piece)

    def _feed(self, data: bytes, messages: list[bytes]) -> None:
        protocol = self._own_protocol()
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if isinstance(frame, Frame):
                self._on_frame(frame, messages)
        if protocol.close_rcvd is not None or protocol.parser_exc is not None:
            self._deaf = True
        self._write_protocol()

    def _on_frame(self, frame: Frame, messages: list[bytes]) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.CONT:
            message = self._message = self._message or bytearray()
            message += frame.data
            if frame.fin:
                messages.append(bytes(message))
                self._message = None
        elif opcode is Opcode.PONG:
            self._on_pong(bytes(frame.data), messages)
        elif opcode is Opcode.BINARY:
            self._protocol.fail(1003, "only text messages are spoken here")
            self._deaf = True
