import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol

from workers.gateway.frames import (
    PING_FIN,
    PONG_FIN,
    control_frame,
    frame_size,
    text_frames,
    with_empty_mask,
)

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 200_000]


@pytest.mark.parametrize("mask", [True, False])
def test_the_library_reads_what_we_write(mask: bool) -> None:
    messages = [b"<" * size for size in SIZES]
    peer = Protocol(SERVER if mask else CLIENT)

    peer.receive_data(text_frames(messages, mask=mask))

    frames = [event for event in peer.events_received() if isinstance(event, Frame)]
    assert [bytes(frame.data) for frame in frames] == messages
    assert all(frame.fin and frame.opcode is Opcode.TEXT for frame in frames)


@pytest.mark.parametrize("mask", [True, False])
def test_the_library_reads_our_pings_and_pongs(mask: bool) -> None:
    payloads = [b"", b"k", b"x" * 125]
    peer = Protocol(SERVER if mask else CLIENT)

    for payload in payloads:
        for first in (PING_FIN, PONG_FIN):
            peer.receive_data(control_frame(first, payload, mask=mask))

    frames = [event for event in peer.events_received() if isinstance(event, Frame)]
    assert [bytes(frame.data) for frame in frames[::2]] == payloads
    assert [bytes(frame.data) for frame in frames[1::2]] == payloads
    assert [frame.opcode for frame in frames] == 3 * [Opcode.PING, Opcode.PONG]


def test_each_frame_has_its_own_mask() -> None:
    frames = text_frames([b"\0" * 100, b"\0" * 100], mask=True)

    assert frames[2:6] != frames[108:112]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_the_size_of_a_frame_is_known_from_its_header(size: int, mask: bool) -> None:
    frame = b"before" + text_frames([b"x" * size], mask=mask)

    header, payload = frame_size(frame, 6)

    assert payload == size
    assert 6 + header + payload == len(frame)
    for end in range(6, 6 + header):
        assert frame_size(frame[:end], 6) == (0, 0)


@pytest.mark.parametrize("size", SIZES)
def test_an_unmasked_frame_can_pass_for_a_masked_one(size: int) -> None:
    peer = Protocol(SERVER)

    peer.receive_data(with_empty_mask(text_frames([b"x" * size], mask=False)))

    (frame,) = peer.events_received()
    assert isinstance(frame, Frame) and bytes(frame.data) == b"x" * size


def test_no_masking_key_is_used_twice() -> None:
    """RFC 6455 §5.3: a fresh one for each frame, however many go together."""
    counts = [1, 3, 255, 300, 1, 1000, 1]
    frames = [
        text_frames([b"x"] * count, mask=True)
        if count > 1
        else control_frame(PING_FIN, b"x", mask=True)
        for count in counts
    ]
    keys = [run[at + 2 : at + 6] for run in frames for at in range(0, len(run), 7)]
    assert len(keys) == sum(counts)
    assert len(set(keys)) >= len(keys) - 1  # by chance two are alike once in 3,500 runs
