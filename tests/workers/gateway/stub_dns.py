"""A real DNS server for tests: answers from a table over UDP and counts what it is asked."""

import asyncio
from collections import Counter
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class StubDns(asyncio.DatagramProtocol):
    """`records[(name, type)]` are texts as in a zone file; other names do not exist.

    The value None means no answer at all; "SERVFAIL" answers with that code.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str] | str | None] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.ttl = 60
        self.address = ""
        self._transport: Any = None

    @classmethod
    async def start(cls) -> "StubDns":
        server = cls()
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", 0))
        return server

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        known = {key for key, _ in self.records}
        records = self.records.get((name, kind), [])
        if records is None:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if records == "SERVFAIL":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif records:
            response.answer.append(
                dns.rrset.from_text_list(question.name, self.ttl, "IN", kind, list(records))
            )
        elif name not in known:
            response.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(response.to_wire(), addr)
