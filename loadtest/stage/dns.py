"""The stage's own authoritative DNS server: the records set here exist, nothing else does."""

import ipaddress
import socketserver
import struct
import threading
from collections.abc import Iterable
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from loadtest.stage.addresses import DNS_PORT

_TTL = 5


class StageDns:
    """UDP and TCP on port 53 of one address, in threads: a busy event loop must not slow it down.

    Records may change at any time. A host name that reads as an IPv4 address resolves to itself, as
    ejabberd's resolver (libc) and Prosody's take it.
    """

    def __init__(self, address: str, port: int = DNS_PORT) -> None:
        self.address = address
        self.port = port
        self.queries: list[tuple[str, str]] = []
        self._records: dict[tuple[str, str], list[str]] = {}
        self._servers: list[socketserver.BaseServer] = []

    def set(self, name: str, kind: str, *values: str) -> None:
        """Replace the records of a kind ("A", "SRV", "TXT"); no values remove them."""
        key = (name.lower().rstrip("."), kind)
        if values:
            self._records[key] = list(values)
        else:
            self._records.pop(key, None)

    def set_xmpp_server(self, domain: str, host: str, port: int) -> None:
        """Publish the native s2s target of a domain (RFC 6120 §3.2.1)."""
        self.set(f"_xmpp-server._tcp.{domain}", "SRV", f"0 0 {port} {host}.")

    def remove(self, domain: str) -> None:
        """Forget every record of a domain and of its service names."""
        suffix = domain.lower()
        for name, kind in list(self._records):
            if name == suffix or (name.startswith("_") and name.endswith("." + suffix)):
                del self._records[name, kind]

    def start(self) -> None:
        """Bind and serve. Raises `OSError` when the address is taken."""
        for base, handler in (
            (socketserver.ThreadingUDPServer, _UdpHandler),
            (socketserver.ThreadingTCPServer, _TcpHandler),
        ):
            server = base((self.address, self.port), handler, bind_and_activate=False)
            server.allow_reuse_address = True
            server.daemon_threads = True
            setattr(server, "stage_dns", self)  # noqa: B010
            server.server_bind()
            server.server_activate()
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop serving and close the sockets."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()

    def answer(self, wire: bytes) -> bytes:
        """The response to one query message."""
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, kind))
        values = self._records.get((name, kind)) or _literal_address(name, kind)
        if values:
            response.answer.append(
                dns.rrset.from_text_list(question.name, _TTL, "IN", kind, values)
            )
        elif not self._exists(name):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()

    def _exists(self, name: str) -> bool:
        known: Iterable[str] = (known for known, _ in list(self._records))
        return any(each == name or each.endswith("." + name) for each in known)


def _literal_address(name: str, kind: str) -> list[str]:
    if kind != "A":
        return []
    try:
        return [str(ipaddress.IPv4Address(name))]
    except ValueError:
        return []


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, sock = self.request
        sock.sendto(_stage_dns(self.server).answer(wire), self.client_address)


class _TcpHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while len(prefix := self.rfile.read(2)) == 2:
            wire = self.rfile.read(struct.unpack("!H", prefix)[0])
            response = _stage_dns(self.server).answer(wire)
            self.wfile.write(struct.pack("!H", len(response)) + response)


def _stage_dns(server: Any) -> StageDns:
    stage_dns: StageDns = server.stage_dns
    return stage_dns
