import asyncio
import struct
import threading
from pathlib import Path

import pytest

from coordinator import control
from coordinator.control import (
    Answer,
    Command,
    ControlProtocolError,
    Hello,
    LeafIssued,
    Order,
    Reply,
    Report,
    Request,
    ask,
    encode,
    read_message,
)


def reader_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


@pytest.mark.parametrize(
    "message",
    [
        Hello("gw1/w1.a", 7),
        LeafIssued(3, b"\x00\xffPEM", b"key", 1.5),
        Report({"sessions": [{"domain_pairs": [["a.example", "b.example"]]}]}),
        Command("drain"),
        Request(4, "ping", "b.example"),
        Answer(4, [{"pair": ["a.example", "b.example"], "ok": True}]),
        Order("drain", "w1"),
        Reply(True, "done"),
    ],
)
async def test_a_message_comes_out_as_it_went_in(message):
    reader = reader_of(encode(message) * 2)
    assert await read_message(reader) == message
    assert await read_message(reader) == message
    with pytest.raises(EOFError):
        await read_message(reader)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", control.MAX_MESSAGE_BYTES + 1),
        struct.pack("!I", 2) + b"{}",
        struct.pack("!I", 3) + b"\xff\xff\xff",
        struct.pack("!I", 32) + b'{"type":"command","verb":"dance"}'[:32],
    ],
)
async def test_what_is_no_message_is_a_protocol_error(data: bytes):
    with pytest.raises(ControlProtocolError):
        await read_message(reader_of(data))


def test_asking_without_a_coordinator_is_an_os_error(tmp_path: Path):
    with pytest.raises(OSError):
        ask(control.socket_path(tmp_path), Order("drain"))


@pytest.mark.parametrize("answer", [b"", encode(Hello("gw1/w1.a", 1))])
async def test_asking_one_that_is_no_coordinator_is_a_protocol_error(tmp_path: Path, answer: bytes):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "s")
    caught: list[BaseException] = []

    def client() -> None:
        try:
            ask(tmp_path / "s", Order("drain"))
        except ControlProtocolError as exc:
            caught.append(exc)

    thread = threading.Thread(target=client)
    thread.start()
    await asyncio.to_thread(thread.join)
    server.close()
    await server.wait_closed()
    assert caught
