"""A message takes at most its time, and what a peer sends counts in bytes and frames."""

import asyncio

from websockets.frames import Opcode

from coordinator.config import Limits
from tests.workers.gateway.websocket_scene import by_hand, client_frame, close_code_in
from tests.workers.gateway.wire_bench import on_both_loops
from workers.gateway.allowance import Allowance, Allowances
from workers.gateway.frame_reader import MAX_FRAMES

MESSAGE = b"<message>" + b"x" * 3000 + b"</message>"


class Meter(Allowance):
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.size = self.stanzas = 0
        self.rests: list[float] = []

    def take(self, size: int, stanzas: int, now: float) -> float:
        self.size += size
        self.stanzas += stanzas
        return self.rests.pop() if self.rests else 0.0


@on_both_loops
async def test_a_dribbled_frame_ends_in_time() -> None:
    async with by_hand() as (websocket, owner, reader, writer):
        websocket.message_timeout = 0.2
        began = asyncio.get_running_loop().time()
        frame = client_frame(Opcode.TEXT, MESSAGE)
        for at in range(len(frame)):
            writer.write(frame[at : at + 1])
            await asyncio.sleep(0.02)
            if not owner.closes.empty():
                break
        assert asyncio.get_running_loop().time() - began < 5.0
        assert owner.closes.get_nowait()[0] == 1008
        assert close_code_in(await reader.read(65536)) == 1008


@on_both_loops
async def test_dribbled_fragments_end_in_time_whatever_comes_between() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        websocket.message_timeout = 0.2
        writer.write(client_frame(Opcode.TEXT, b"<message>", fin=False))
        for _ in range(250):
            writer.write(client_frame(Opcode.CONT, b"x", fin=False))
            writer.write(client_frame(Opcode.PONG, b""))
            await asyncio.sleep(0.02)
            if not owner.closes.empty():
                break
        assert owner.closes.get_nowait()[0] == 1008


@on_both_loops
async def test_who_is_never_between_messages_but_finishes_each_goes_on() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        websocket.message_timeout = 0.2
        frame = client_frame(Opcode.TEXT, MESSAGE)
        writer.write(frame[:10])
        for _ in range(20):
            await asyncio.sleep(0.03)
            writer.write(frame[10:] + frame[:10])
        for _ in range(20):
            assert await owner.messages.get() == MESSAGE
        assert owner.closes.empty()


@on_both_loops
async def test_the_time_that_we_did_not_read_is_not_the_peers() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        websocket.message_timeout = 0.2
        frame = client_frame(Opcode.TEXT, MESSAGE)
        writer.write(frame[:100])
        await asyncio.sleep(0.05)
        websocket.channel.pause_reading()
        writer.write(frame[100:200])
        await asyncio.sleep(0.3)
        websocket.channel.resume_reading()
        websocket.restart_clock()
        await asyncio.sleep(0.05)
        writer.write(frame[200:])
        assert await owner.messages.get() == MESSAGE


@on_both_loops
async def test_frames_of_any_kind_count_like_stanzas() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        meter = websocket.meter = Meter()
        data = (
            client_frame(Opcode.TEXT, MESSAGE) * 2
            + client_frame(Opcode.TEXT, b"<mess", fin=False)
            + client_frame(Opcode.CONT, b"age/>")
            + client_frame(Opcode.PING, b"p")
            + client_frame(Opcode.PONG, b"p")
        )
        writer.write(data)
        await owner.pongs.get()
        await asyncio.sleep(0)
        assert meter.size == len(data)
        assert 6 <= meter.stanzas <= 7  # a message of two frames may count as three


@on_both_loops
async def test_who_has_sent_its_share_has_to_rest() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        meter = websocket.meter = Meter()
        meter.rests = [0.2]
        began = asyncio.get_running_loop().time()
        writer.write(client_frame(Opcode.TEXT, MESSAGE))
        assert await owner.messages.get() == MESSAGE
        writer.write(client_frame(Opcode.TEXT, MESSAGE))
        assert await owner.messages.get() == MESSAGE
        assert asyncio.get_running_loop().time() - began > 0.18


@on_both_loops
async def test_a_flood_of_small_frames_is_cut_in_turns_and_arrives_whole() -> None:
    async with by_hand() as (websocket, owner, reader, writer):
        meter = websocket.meter = Meter()
        small = b"".join(client_frame(Opcode.TEXT, b"<r n='%d'/>" % n) for n in range(2000))
        pings = b"".join(client_frame(Opcode.PING, b"%d" % n) for n in range(2000))
        writer.write(small + pings + client_frame(Opcode.PONG, b"the end"))
        for number in range(2000):
            assert await owner.messages.get() == b"<r n='%d'/>" % number
        assert await owner.pongs.get() == b"the end"
        assert max(owner.batches) <= MAX_FRAMES
        # 2000 Pongs of two bytes and up to four digits.
        answers = await reader.readexactly(sum(2 + len(str(n)) for n in range(2000)))
        assert answers.startswith(b"\x8a\x010") and answers.endswith(b"1999")
        assert 4001 <= meter.stanzas <= 4001 + 64


@on_both_loops
async def test_a_flood_of_small_frames_is_not_cut_while_it_has_to_rest() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        meter = websocket.meter = Meter()
        meter.rests = [0.2]
        writer.write(client_frame(Opcode.TEXT, b"<r/>") * 1000)
        await owner.messages.get()
        await asyncio.sleep(0.1)
        assert sum(owner.batches) == MAX_FRAMES
        for _ in range(999):
            await owner.messages.get()


@on_both_loops
async def test_what_waits_for_its_turn_is_forgotten_with_the_connection() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        writer.write(client_frame(Opcode.TEXT, b"<r/>") * 1000)
        await owner.messages.get()
        websocket.abort()
        assert (await owner.closes.get())[0] == 1006
        await asyncio.sleep(0.05)
        assert sum(owner.batches) < 1000


@on_both_loops
async def test_nothing_waits_for_its_turn_beyond_the_end_of_the_connection() -> None:
    async with by_hand() as (websocket, owner, _, _writer):
        # As the channel calls it when close_notify comes in the same read.
        websocket.data_received(client_frame(Opcode.TEXT, b"<r/>") * 1000 + b"\x81")
        websocket.eof_received()
        assert (await owner.closes.get())[0] == 1006
        assert sum(owner.batches) == 1000


@on_both_loops
async def test_who_has_company_is_known_with_each_read() -> None:
    async with by_hand() as (websocket, owner, _, writer):
        allowances = Allowances(Limits)
        websocket.meter = allowances.of("flood.example")
        for others, has_company in ((0, False), (1, True)):
            for _ in range(others):
                allowances.of("quiet.example").is_alone(asyncio.get_running_loop().time())
            writer.write(client_frame(Opcode.TEXT, MESSAGE))
            assert await owner.messages.get() == MESSAGE
            assert websocket.channel.has_company is has_company
