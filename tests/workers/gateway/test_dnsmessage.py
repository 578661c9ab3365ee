import contextlib

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.gateway import dnsmessage
from workers.gateway.dnsmessage import NotAQuestion, read_question

NAME = "_xmpp-server._tcp.montague.example"


def query(name=NAME, kind="SRV", **options):
    return dns.message.make_query(name, kind, **options)


def error_for(packet):
    with pytest.raises(NotAQuestion) as refused:
        read_question(packet)
    return refused.value.reply


def test_a_question_is_read():
    packet = query("_XMPP-server._tcp.Montague.EXAMPLE.", id=77).to_wire()
    question = read_question(packet)
    assert (question.id, question.name, question.type, question.class_) == (77, NAME, 33, 1)
    assert question.has_edns is False
    assert b"Montague" in question.section


def test_the_root_and_long_names_are_read():
    assert read_question(query(".", "NS").to_wire()).name == ""
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert read_question(query(longest, "A").to_wire()).name == longest


@pytest.mark.parametrize(
    "edns", [{"use_edns": 0}, {"want_dnssec": True}, {"use_edns": 0, "pad": 128}]
)
def test_a_question_with_edns_gets_an_answer_with_edns(edns):
    asked = query(**edns)
    question = read_question(asked.to_wire())
    record = dnsmessage.srv_record(5271, "localhost.", 5)
    answer = dns.message.from_wire(dnsmessage.reply(question, dnsmessage.NOERROR, (record,)))
    assert asked.is_response(answer)
    assert (answer.edns, answer.payload) == (0, 1232)
    assert answer.flags & dns.flags.RA and not answer.flags & dns.flags.AA
    assert [rrset.to_text() for rrset in answer.answer] == [f"{NAME}. 5 IN SRV 0 0 5271 localhost."]


def test_a_plain_question_gets_a_plain_answer():
    asked = query()
    packet = dnsmessage.reply(read_question(asked.to_wire()), dnsmessage.NXDOMAIN)
    answer = dns.message.from_wire(packet)
    assert asked.is_response(answer)
    assert (answer.edns, answer.rcode(), answer.answer) == (-1, dns.rcode.NXDOMAIN, [])


def test_silence_is_kept_towards_responses_and_fragments():
    assert error_for(b"") is None
    assert error_for(query().to_wire()[:11]) is None
    assert error_for(dns.message.make_response(query()).to_wire()) is None


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (query().to_wire()[:12], dns.rcode.FORMERR),
        (query().to_wire()[:-3], dns.rcode.FORMERR),
        (query().to_wire()[:20], dns.rcode.FORMERR),
        (b"\0\7\1\0\0\1" + bytes(6) + b"\xc0\x0c\0\x21\0\1", dns.rcode.FORMERR),  # a loop
        (b"\0\7\1\0\0\1" + bytes(6) + b"\x40abc\0\0\x21\0\1", dns.rcode.FORMERR),
        (b"\0\7\1\0\0\1" + bytes(6) + b"\x3f" * 65 * 5 + b"\0\0\x21\0\1", dns.rcode.FORMERR),
        (b"\0\7\1\0\0\0" + bytes(6), dns.rcode.FORMERR),
        (b"\0\7\1\0\0\2" + bytes(6) + query().to_wire()[12:] * 2, dns.rcode.FORMERR),
        (b"\0\7\x28\0" + query().to_wire()[4:], dns.rcode.NOTIMP),  # an update
    ],
    ids=[
        "header alone",
        "three bytes short",
        "in a name",
        "loop",
        "label of a reserved kind",
        "name too long",
        "no question",
        "two questions",
        "update",
    ],
)
def test_malformed_queries_are_told_so(packet, code):
    answer = dns.message.from_wire(error_for(packet))
    assert (answer.rcode(), answer.id) == (code, int.from_bytes(packet[:2], "big"))


def test_a_dot_inside_a_label_is_no_border():
    packet = b"\0\7\1\0\0\1" + bytes(6) + b"\x12_xmpp-server._tcp.\x01a\0\0\x21\0\1"
    assert read_question(packet).name == "_xmpp-server\\._tcp\\..a"


@given(st.binary(max_size=600) | st.binary(max_size=80).map(query().to_wire()[:12].__add__))
def test_any_packet_is_a_question_or_not(packet):
    with contextlib.suppress(NotAQuestion):
        read_question(packet)


def test_only_the_answer_to_the_very_question_counts():
    asked = query(id=9)
    packet = dns.message.make_response(asked).to_wire()
    section = read_question(asked.to_wire()).section
    assert dnsmessage.is_reply_to(packet, 9, section)
    assert dnsmessage.is_reply_to(packet.replace(b"montague", b"MONTAGUE"), 9, section)
    assert not dnsmessage.is_reply_to(packet, 8, section)
    assert not dnsmessage.is_reply_to(asked.to_wire(), 9, section)
    assert not dnsmessage.is_reply_to(packet.replace(b"montague", b"capulet1"), 9, section)
    assert not dnsmessage.is_reply_to(packet[:11], 9, section)
    assert dnsmessage.is_reply_to(b"\0\x09\x80\x01" + bytes(8), 9, section)
    assert dnsmessage.with_id(packet, 8)[:2] == b"\0\x08"
