"""The part of the DNS wire format (RFC 1035) that steering needs: questions and replies."""

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!6H")

TYPE_SRV = 33
TYPE_OPT = 41
TYPE_IXFR = 251
TYPE_AXFR = 252
TYPE_ANY = 255
CLASS_IN = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

_QR, _OPCODE, _RD, _RA, _CD = 0x8000, 0x7800, 0x0100, 0x0080, 0x0010
# What we say about ourselves in EDNS: the size that needs no fragments (RFC 6891 §6.2.5).
_UDP_SIZE = 1232
_OPT_RECORD = b"\x00" + struct.pack("!HHIH", TYPE_OPT, _UDP_SIZE, 0, 0)


class NotAQuestion(Exception):
    """The packet cannot be served; `reply` is the error to send, None for no answer at all."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("not a question")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Question:
    """The one question of a query. `name` is lower-case without the final dot."""

    id: int
    flags: int
    name: str
    type: int
    class_: int
    section: bytes  # as asked: 0x20-mixed case must come back unchanged
    has_edns: bool


def read_question(packet: bytes) -> Question:
    """Read a query's header and question. Raises `NotAQuestion`, and for no bytes anything else."""
    if len(packet) < HEADER.size:
        raise NotAQuestion(None)
    id, flags, questions, answers, authorities, additionals = HEADER.unpack_from(packet)
    if flags & _QR:
        # Answering a response could start two servers answering each other for ever.
        raise NotAQuestion(None)
    if flags & _OPCODE:
        raise NotAQuestion(_error(id, flags, NOTIMP))
    found = _read_name(packet, HEADER.size)
    if questions != 1 or found is None or len(packet) < found[1] + 4:
        raise NotAQuestion(_error(id, flags, FORMERR))
    name, end = found
    type, class_ = struct.unpack_from("!HH", packet, end)
    has_edns = additionals > 0 and not answers and not authorities and _is_opt(packet, end + 4)
    section = packet[HEADER.size : end + 4]
    return Question(id, flags, name, type, class_, section, has_edns)


def _read_name(packet: bytes, position: int) -> tuple[str, int] | None:
    """Return (name, position behind it), None when it is malformed (also: has a pointer)."""
    labels: list[str] = []
    start = position
    while position < len(packet):
        length = packet[position]
        position += 1
        if length == 0:
            return ".".join(labels), position
        if length > 63 or position + length > len(packet) or position + length - start > 254:
            return None
        label = packet[position : position + length].decode("latin-1").lower()
        # A dot inside a label must not look like a border between two.
        labels.append(label.replace(".", "\\."))
        position += length
    return None


def _is_opt(packet: bytes, position: int) -> bool:
    # Resolvers put OPT first; overlooking one elsewhere only costs the EDNS part of our reply.
    return packet[position : position + 3] == b"\x00" + TYPE_OPT.to_bytes(2, "big")


def _error(id: int, flags: int, code: int) -> bytes:
    return HEADER.pack(id, _QR | flags & (_OPCODE | _RD) | _RA | code, 0, 0, 0, 0)


def reply(question: Question, code: int, answers: tuple[bytes, ...] = ()) -> bytes:
    """Write a response to `question`: its id and section, EDNS when it was asked with EDNS."""
    flags = _QR | question.flags & (_RD | _CD) | _RA | code
    edns = _OPT_RECORD if question.has_edns else b""
    header = HEADER.pack(question.id, flags, 1, len(answers), 0, 1 if edns else 0)
    return b"".join((header, question.section, *answers, edns))


def srv_record(port: int, target: str, ttl: int) -> bytes:
    """An SRV record `0 0 <port> <target>` for the name of the question; `ttl` in seconds."""
    labels = [label.encode("ascii") for label in target.rstrip(".").split(".") if label]
    data = struct.pack("!3H", 0, 0, port)
    data += b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"
    # 0xC00C points at the name in the question.
    return struct.pack("!HHHIH", 0xC000 | HEADER.size, TYPE_SRV, CLASS_IN, ttl, len(data)) + data


def is_reply_to(packet: bytes, id: int, section: bytes) -> bool:
    """Whether a packet answers the query that was sent with this id and question section."""
    if len(packet) < HEADER.size or int.from_bytes(packet[:2], "big") != id:
        return False
    if not packet[2] & 0x80:
        return False
    end = HEADER.size + len(section)
    if packet[HEADER.size : end].lower() == section.lower():
        return True
    # FORMERR, NOTIMP and the like may come as a bare header.
    return len(packet) == HEADER.size and packet[3] & 0x0F != NOERROR


def with_id(packet: bytes, id: int) -> bytes:
    """The same message under another id."""
    return id.to_bytes(2, "big") + packet[2:]
