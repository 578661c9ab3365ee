"""A DNS server above the steering one, on loopback, that answers as the test says."""

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class Upstream(asyncio.DatagramProtocol):
    """UDP and TCP on one free port. What is in `records` exists; all else does not."""

    def __init__(self, records=None):
        self.records = records or {}
        self.queries = []
        self.silent = False
        self.forge = None  # rewrites an answer into the packets to send instead

    async def start(self):
        while True:
            self._tcp = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
            self.port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    lambda: self, ("127.0.0.1", self.port)
                )
                break
            except OSError:  # free for TCP only
                self._tcp.close()
        return self

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    async def stop(self):
        self._udp.close()
        self._tcp.close()

    def datagram_received(self, data, addr):
        try:
            answer = self._answer(data, 1232)
        except dns.exception.DNSException:
            return
        for packet in self.forge(answer) if self.forge else [answer]:
            if not self.silent:
                self._udp.sendto(packet, addr)

    async def _on_connection(self, reader, writer):
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            query = await reader.readexactly(size)
            if not self.silent:
                answer = self._answer(query, 65535)
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (OSError, EOFError):
            pass  # the asker gave up
        finally:
            writer.transport.abort() if self.silent else writer.close()

    def _answer(self, wire, largest):
        query = dns.message.from_wire(wire)
        self.queries.append(query)
        response = dns.message.make_response(query)
        question = query.question[0]
        key = (question.name.to_text(omit_final_dot=True).lower(), question.rdtype.name)
        if key in self.records:
            response.answer = [
                dns.rrset.from_text_list(question.name, 60, "IN", key[1], self.records[key])
            ]
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        try:
            return response.to_wire(max_size=largest)
        except dns.exception.TooBig:
            response.answer = []
            response.flags |= dns.flags.TC
            return response.to_wire()
