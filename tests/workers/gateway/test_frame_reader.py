"""Frames become messages, however they are cut; binary, too big and broken ones end it all."""

import asyncio
import random
import struct

import pytest
import websockets
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol

from tests.workers.gateway.websocket_scene import (
    BOTH_ROLES,
    CLOSE,
    CONT,
    MAX_MESSAGE,
    PING,
    TEXT,
    by_hand,
    client_frame,
    close_code_in,
)
from tests.workers.gateway.wire_bench import on_both_loops
from workers.gateway.frame_reader import MAX_FRAMES, UNTOUCHED, FrameReader
from workers.gateway.frames import text_frames


@BOTH_ROLES
@on_both_loops
async def test_binary_messages_end_the_connection_with_1003(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        await session.peer.send("text")
        await session.peer.send(b"binary")
        await session.peer.wait_closed()

        assert session.peer.close_code == 1003
        assert (await session.owner.closes.get())[0] == 1003
        assert session.owner.messages.qsize() == 1


@BOTH_ROLES
@pytest.mark.parametrize("fragmented", [True, False])
@on_both_loops
async def test_too_big_messages_end_the_connection_with_1009(
    role: object, fragmented: bool
) -> None:
    async with role() as session:  # type: ignore[operator]
        half = "x" * (MAX_MESSAGE // 2 + 1)
        try:
            await session.peer.send([half, half] if fragmented else half + half)
        except websockets.ConnectionClosed:
            pass  # the Close came while it was sending
        await session.peer.wait_closed()

        assert session.peer.close_code == 1009
        assert (await session.owner.closes.get())[0] == 1009
        assert session.owner.messages.empty()


BROKEN = {
    "unmasked": text_frames([b"<a/>"], mask=False),
    "rsv1": client_frame(TEXT, b"<a/>", reserved=0x40),
    "rsv3": client_frame(TEXT, b"<a/>", reserved=0x10),
    "reserved data opcode": b"\x83\x80\0\0\0\0",
    "reserved control opcode": b"\x8b\x80\0\0\0\0",
    "continuation first": client_frame(CONT, b"<a/>"),
    "text inside a fragmented message": client_frame(TEXT, b"<", fin=False)
    + client_frame(TEXT, b"a/>"),
    "fragmented ping": b"\x09\x80\0\0\0\0",
    "long ping": b"\x89\xfe\x00\x7e" + b"\0" * 130,
    "long pong": b"\x8a\xfe\x00\x7e" + b"\0" * 130,
    "unmasked ping": Frame(PING, b"p").serialize(mask=False),
    "unmasked pong": Frame(Opcode.PONG, b"").serialize(mask=False),
    "rsv2 in a ping": client_frame(PING, b"p", reserved=0x20),
    "close of one byte": client_frame(CLOSE, b"x"),
    "close with a code nobody may send": client_frame(CLOSE, struct.pack("!H", 1005)),
}


@pytest.mark.parametrize("bytewise", [True, False])
@pytest.mark.parametrize("broken", BROKEN)
@on_both_loops
async def test_broken_frames_end_the_connection_with_1002(broken: str, bytewise: bool) -> None:
    async with by_hand() as (_, owner, reader, writer):
        data = client_frame(TEXT, b"good") + BROKEN[broken] + client_frame(TEXT, b"after")
        for at in range(0, len(data), 1 if bytewise else len(data)):
            writer.write(data[at : at + (1 if bytewise else len(data))])
            await asyncio.sleep(0)

        assert close_code_in(await reader.read()) == 1002
        assert (await owner.closes.get())[0] == 1002
        assert [owner.messages.get_nowait() for _ in range(owner.messages.qsize())] == [b"good"]


@on_both_loops
async def test_an_announced_size_over_the_limit_is_refused_at_once() -> None:
    async with by_hand() as (_, owner, reader, writer):
        writer.write(b"\x81\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0")

        assert close_code_in(await reader.read()) == 1009
        assert (await owner.closes.get())[0] == 1009


@BOTH_ROLES
@on_both_loops
async def test_fragments_are_put_together_with_pings_between(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        protocol, transport = session.peer.protocol, session.peer.transport
        await session.peer.send("before")
        protocol.send_text(b"one ", fin=False)
        protocol.send_ping(b"between")
        protocol.send_continuation(b"", fin=False)
        protocol.send_continuation(b"message", fin=True)
        transport.writelines(protocol.data_to_send())
        await session.peer.send(["and", " another"])
        await session.peer.send("after")

        received = [await session.owner.messages.get() for _ in range(4)]

        assert received == [b"before", b"one message", b"and another", b"after"]


@on_both_loops
async def test_allowed_peers_may_leave_out_the_mask() -> None:
    async with by_hand(unmasked=True) as (_, owner, reader, writer):
        ping = Frame(PING, b"p").serialize(mask=False)
        fragments = Frame(TEXT, b"<b", False).serialize(mask=False) + Frame(
            CONT, b"/>" + b"x" * 200
        ).serialize(mask=False)
        writer.write(text_frames([b"<a/>"], mask=False) + ping + fragments)
        writer.write(text_frames([b"<c/>"], mask=True))

        expected = [b"<a/>", b"<b/>" + b"x" * 200, b"<c/>"]
        assert [await owner.messages.get() for _ in range(3)] == expected
        assert await reader.readexactly(3) == b"\x8a\x01p"


@on_both_loops
async def test_a_read_of_many_messages_is_one_batch() -> None:
    async with by_hand() as (_, owner, _, writer):
        writer.write(text_frames([b"<a/>"] * MAX_FRAMES, mask=True))
        for _ in range(MAX_FRAMES):
            await owner.messages.get()

        assert len(owner.batches) <= 2


@pytest.mark.parametrize("seed", range(5))
@on_both_loops
async def test_any_split_of_the_bytes_gives_the_same_messages(seed: int) -> None:
    chance = random.Random(seed)
    async with by_hand() as (_, owner, reader, writer):
        expected, data = [], b""
        for _ in range(60):
            message = b"x" * chance.choice([0, 1, 125, 126, 127, 300, 65535, 65536])
            cut = chance.randrange(len(message) + 1)
            expected.append(message)
            if chance.random() < 0.5:
                data += client_frame(TEXT, message)
            else:
                data += client_frame(TEXT, message[:cut], fin=False)
                data += client_frame(PING, b"?")
                data += client_frame(CONT, message[cut:])
        data += client_frame(CLOSE, struct.pack("!H", 1000))
        while data:
            size = chance.choice([1, 2, 5, 1000, 70000])
            writer.write(data[:size])
            data = data[size:]
            await writer.drain()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await owner.closes.get()

        received = [owner.messages.get_nowait() for _ in range(owner.messages.qsize())]
        assert received == expected
        assert (await reader.read()).endswith(b"\x88\x02\x03\xe8")


@pytest.mark.parametrize("bytewise", [True, False])
@on_both_loops
async def test_close_may_come_between_fragments(bytewise: bool) -> None:
    """RFC 6455 §5.4: it is a control frame like Ping."""
    async with by_hand() as (_, owner, reader, writer):
        data = client_frame(TEXT, b"<", fin=False) + client_frame(CLOSE, struct.pack("!H", 1000))
        data += client_frame(CONT, b"a/>")
        for at in range(0, len(data), 1 if bytewise else len(data)):
            writer.write(data[at : at + (1 if bytewise else len(data))])
            await asyncio.sleep(0)

        assert close_code_in(await reader.read()) == 1000
        assert (await owner.closes.get())[0] == 1000
        assert owner.messages.empty()


@on_both_loops
async def test_frames_behind_close_are_ignored() -> None:
    async with by_hand() as (_, owner, reader, writer):
        close = client_frame(CLOSE, struct.pack("!H", 1000))
        writer.write(client_frame(TEXT, b"in") + close + client_frame(TEXT, b"out"))

        assert close_code_in(await reader.read()) == 1000
        assert await owner.closes.get() == (1000, "")
        assert owner.messages.qsize() == 1


@on_both_loops
async def test_questions_between_stanzas_part_no_read() -> None:
    async with by_hand() as (websocket, owner, _, _writer):
        stanza = client_frame(Opcode.TEXT, b"<message>" + b"x" * 200 + b"</message>")
        question = client_frame(Opcode.TEXT, b"<r/>")
        websocket.data_received((stanza * 70 + question) * 2)
        assert owner.batches == [142]
        # That many small ones of any kind are parted, though.
        websocket.data_received(stanza * 10 + question * MAX_FRAMES + stanza * 2 + question)
        assert owner.batches == [142, 10 + MAX_FRAMES + 2]
        for _ in range(142 + 13 + MAX_FRAMES):
            await owner.messages.get()


class LoneReader(FrameReader):
    """Without a connection: writes down what it reads, and what it would write."""

    def __init__(self, *, masks: bool = False, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(UNTOUCHED if not masks else Protocol(CLIENT), allow_unmasked=False)
        self.limit_messages(max_message)
        self.told: list[bytes | tuple[str, bytes]] = []
        self.written: list[bytes] = []
        self.is_put_off = False

    def feed(self, data: bytes) -> None:
        """As `WebSocket` does."""
        buffer = self._buffer
        buffer += data
        if len(buffer) >= self._needed:
            data = bytes(buffer)
            buffer.clear()
            self._uncommon = 0
            self.told += self._cut(data)

    def go_on(self) -> None:
        """In the next turn of the loop."""
        self.is_put_off, self._needed = False, 0
        self.feed(b"")

    def _put_off(self) -> None:
        self.is_put_off = True

    def _on_pong(self, payload: bytes, messages: list[bytes]) -> None:
        self.told += messages
        messages.clear()
        self.told.append(("pong", payload))

    def _write_pong(self, frame: bytes) -> None:
        self.written.append(frame)

    def _write_protocol(self) -> None:
        self.written += self._protocol.data_to_send()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_a_frame_is_kept_until_it_is_whole_and_not_looked_at_before(size: int) -> None:
    message = b"x" * size
    frame = client_frame(TEXT, message)
    for cut in {1, 2, 4, 5, len(frame) // 2, len(frame) - 1}:
        reader = LoneReader()
        reader.feed(frame + frame[:cut])
        assert reader.told == [message]
        assert bytes(reader._buffer) == frame[:cut]
        reader.feed(frame[cut:] + frame)
        assert reader.told == [message] * 3 and not reader._buffer
        assert reader._protocol is UNTOUCHED


def test_what_servers_send_is_read_unmasked_by_a_client() -> None:
    reader = LoneReader(masks=True)
    messages = [b"x" * size for size in (0, 125, 126, 300, 65535, 65536)]
    reader.feed(text_frames(messages, mask=False))
    assert reader.told == messages and not reader.written
    reader.feed(text_frames([b"<a/>"], mask=True))
    assert reader.told == messages and reader._deaf
    assert close_code_in(unmasked(reader.written[0])) == 1002


def unmasked(frame: bytes) -> bytes:
    """What a client wrote, as a server would."""
    peer = Protocol(SERVER)
    peer.receive_data(frame)
    (read,) = (event for event in peer.events_received() if isinstance(event, Frame))
    return read.serialize(mask=False)


def test_pings_and_pongs_need_no_library_and_keep_their_place() -> None:
    reader = LoneReader()
    for piece in (TEXT, PING, TEXT, Opcode.PONG, TEXT):
        reader.feed(client_frame(piece, piece.name.encode()))
    reader.feed(b"".join(client_frame(each, b"2") for each in (TEXT, PING, Opcode.PONG, TEXT)))
    assert reader.told == [b"TEXT"] * 2 + [("pong", b"PONG"), b"TEXT", b"2", ("pong", b"2"), b"2"]
    assert reader.written == [b"\x8a\x04PING", b"\x8a\x012"]
    assert reader._protocol is UNTOUCHED


def test_the_protocol_that_all_share_is_left_alone() -> None:
    state = UNTOUCHED.max_message_size, UNTOUCHED.state
    one, other = LoneReader(max_message=200), LoneReader(max_message=100)
    one.feed(client_frame(TEXT, b"<a", fin=False))
    assert one._protocol is not UNTOUCHED and one._protocol.max_message_size == 200
    other.feed(client_frame(TEXT, b"<b/>"))
    other.feed(client_frame(CLOSE, b""))
    one.feed(client_frame(CONT, b"/>"))
    assert (one.told, other.told) == ([b"<a/>"], [b"<b/>"])
    assert (UNTOUCHED.max_message_size, UNTOUCHED.state) == state
    assert not UNTOUCHED.data_to_send() and UNTOUCHED.close_rcvd is None


@pytest.mark.parametrize("fragmented", [True, False])
def test_a_limit_holds_from_the_next_frame_on(fragmented: bool) -> None:
    def feed(size: int) -> None:
        cut = size // 2 if fragmented else 0
        if fragmented:
            reader.feed(client_frame(TEXT, b"x" * cut, fin=False))
        reader.feed(client_frame(CONT if fragmented else TEXT, b"x" * (size - cut)))

    reader = LoneReader(max_message=1000)
    feed(1000)
    reader.limit_messages(3000)
    feed(3000)
    reader.limit_messages(2000)
    feed(2000)
    assert [len(message) for message in reader.told] == [1000, 3000, 2000]
    assert not reader._deaf and not reader.written
    feed(2001)
    assert reader._deaf and len(reader.told) == 3
    assert close_code_in(b"".join(reader.written)) == 1009


def test_small_frames_beyond_what_one_turn_may_cut_are_put_off_and_lost_by_nobody() -> None:
    messages = [b"%d" % number for number in range(2 * MAX_FRAMES + 5)]
    reader = LoneReader()
    reader.feed(text_frames(messages, mask=True))
    turns = 1
    while reader.is_put_off:
        assert len(reader.told) == turns * MAX_FRAMES
        reader.go_on()
        turns += 1
    assert reader.told == messages and turns == 3


def test_no_large_frame_is_put_off_for_being_many() -> None:
    messages = [b"x" * 126] * (3 * MAX_FRAMES)
    reader = LoneReader()
    reader.feed(text_frames(messages, mask=True))
    assert reader.told == messages and not reader.is_put_off


def test_nothing_is_read_behind_the_peers_close_nor_behind_what_failed_it() -> None:
    for last, code in (
        (client_frame(CLOSE, struct.pack("!H", 1001)), 1001),
        (client_frame(Opcode.BINARY, b"<a/>"), 1003),
        (client_frame(TEXT, b"<a/>", reserved=0x40), 1002),
    ):
        behind = client_frame(TEXT, b"out") + client_frame(PING, b"out")
        reader = LoneReader()
        reader.feed(client_frame(TEXT, b"in") + last + behind)
        assert reader.told == [b"in"] and reader._deaf
        assert close_code_in(b"".join(reader.written)) == code
        assert b"".join(reader.written).count(b"\x8a") == 0


def test_the_payload_of_an_uncommon_frame_is_passed_on_as_it_comes() -> None:
    """It is not kept here as well, however long it is."""
    message = b"x" * 50_000
    frame = client_frame(TEXT, message, fin=False) + client_frame(CONT, b"end")
    reader = LoneReader()
    for at in range(0, len(frame), 999):
        reader.feed(frame[at : at + 999])
        assert len(reader._buffer) < 14
    assert reader.told == [message + b"end"]
