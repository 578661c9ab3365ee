"""DNS steering: an answer to that very question, the question to be forwarded, or silence."""

import struct

import dns.exception
import dns.message

from coordinator.config import Config, Gateway, Local
from workers.gateway.dnsmessage import Question, is_reply_to
from workers.gateway.steering import Steering

STEERING = Steering(
    Config(
        gateway=Gateway(domains=("capulet.example",)), local=Local(upstream_dns=("127.0.0.1:9",))
    ),
    lambda domain: domain.startswith("native"),
)


def query(name: str, kind: int = 33, *, flags: int = 0x0100, more: bytes = b"") -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return (
        struct.pack("!6H", 7, flags, 1, 0, 0, bool(more))
        + labels
        + b"\0"
        + struct.pack("!HH", kind, 1)
        + more
    )


SEEDS = [
    query("_xmpp-server._tcp.montague.example"),
    query("_xmpp-server._tcp.MonTague.example", more=b"\0\0\x29\x04\xd0\0\0\0\0\0\0"),
    query("_xmpps-server._tcp.native.example"),
    query("_xmpp-server._tcp.capulet.example", 255),
    query("montague.example", 1),
    query("montague.example", 252),
    query("a" * 63 + ".example", flags=0x8180),
    query("_xmpp-server._tcp.example").replace(b"\x07example", b"\xc0\x0c"),
]


def check(data: bytes) -> None:
    answer = STEERING.answer(data)
    if answer is None:
        return
    if isinstance(answer, Question):
        assert answer.section == data[12 : 12 + len(answer.section)]
        return
    # Whatever is asked, the reply is one, with the asker's id, and readable.
    assert answer[:2] == data[:2] and answer[2] & 0x80
    assert len(answer) <= 512
    try:
        dns.message.from_wire(answer)
    except dns.exception.DNSException as exc:
        raise AssertionError(f"an unreadable reply: {answer!r}") from exc
    is_reply_to(data, 7, answer[12:])
