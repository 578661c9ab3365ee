"""`python -m workers.attach`: reads the key that the local server shows for each gateway domain.

Prints {"keys": {domain: SHA-256 of the public key, hex}, "failures": {domain: reason}}. Nothing is
verified here: the operator runs it on the machine of the local server, and what it reads is pinned.
"""

import argparse
import asyncio
import json
import os
import re
import ssl
import sys
from xml.sax.saxutils import quoteattr

from cryptography import x509

from coordinator.address import Address, parse_address
from coordinator.config import Config
from coordinator.configfile import load
from coordinator.configvalue import ConfigError
from coordinator.exits import ExitCode
from coordinator.pins import key_digest
from workers.xmpp import namespaces

TIMEOUT = 8.0
MAX_PREAMBLE_BYTES = 16384
_FEATURES_END = re.compile(rb"</[\w.-]+:features\s*>|<[\w.-]+:features\s*/>")
_PROCEED = re.compile(rb"<proceed[\s/>]")
_FAILURE = re.compile(rb"<failure[\s/>]")
_ERROR = re.compile(rb"<[\w.-]+:error[\s>].*?<([\w-]+) ", re.DOTALL)


class KeyNotRead(Exception):
    """The local server showed no key; the message says where it stopped."""


async def read_key(server: Address, domain: str) -> str:
    """Return the SHA-256 of the server's public key (SPKI, hex). Raises `KeyNotRead`, `OSError`.

    Speaks RFC 6120 §5 up to the TLS handshake and closes.
    """
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(_header(domain))
        await _read_until(reader, _FEATURES_END, domain)
        # Sent whether offered or not: a server without TLS answers <failure/>, or an error.
        writer.write(f"<starttls xmlns='{namespaces.TLS}'/>".encode())
        await _read_until(reader, _PROCEED, domain)
        await writer.start_tls(_any_certificate(), server_hostname=domain)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    if not certificate:
        raise KeyNotRead("it showed no certificate")
    return key_digest(x509.load_der_x509_certificate(certificate))


async def read_keys(config: Config) -> dict[str, dict[str, str]]:
    """Read all gateway domains' keys at once, each within `TIMEOUT` seconds.

    None of a server that is attached by components: these have no TLS (XEP-0114).
    """
    keys: dict[str, str] = {}
    failures: dict[str, str] = {}
    if config.local.attach == "component":
        return {"keys": keys, "failures": failures}

    async def read_one(domain: str) -> None:
        server = parse_address(config.local.server_for(domain)).reachable()
        try:
            async with asyncio.timeout(TIMEOUT):
                keys[domain] = await read_key(server, domain)
        except TimeoutError:
            failures[domain] = f"{server} did not answer within {TIMEOUT:g} s"
        except (KeyNotRead, ssl.SSLError) as exc:
            failures[domain] = f"{server}: {exc}"
        except OSError as exc:
            failures[domain] = f"{server}: {os.strerror(exc.errno) if exc.errno else exc}"

    await asyncio.gather(*(read_one(domain) for domain in config.gateway.domains))
    return {"keys": keys, "failures": failures}


def main(arguments: list[str] | None = None) -> int:
    """Print the keys as JSON; exit code 0 even when some are missing: the caller warns."""
    parser = argparse.ArgumentParser(prog="python -m workers.attach", description=__doc__)
    parser.add_argument("--config", metavar="FILE")
    try:
        config = load(parser.parse_args(arguments).config)
    except ConfigError as exc:
        print(f"fedgate: {exc}", file=sys.stderr)
        return ExitCode.CONFIGURATION
    print(json.dumps(asyncio.run(read_keys(config))))
    return ExitCode.OK


def _header(domain: str) -> bytes:
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='{namespaces.SERVER}' "
        f"xmlns:stream='{namespaces.STREAM}' xmlns:db='{namespaces.DIALBACK}' "
        f"from='fedgate.invalid' to={quoteattr(domain)} version='1.0'>"
    ).encode()


async def _read_until(reader: asyncio.StreamReader, wanted: re.Pattern[bytes], domain: str) -> None:
    received = b""
    while not wanted.search(received):
        error = _ERROR.search(received)
        if error:
            raise KeyNotRead(f"it refused {domain} with {error[1].decode()}")
        if _FAILURE.search(received):
            raise KeyNotRead(f"it offers no TLS for {domain}")
        more = await reader.read(4096)
        if not more:
            raise KeyNotRead(f"it closed the connection when asked for {domain}")
        received += more
        if len(received) > MAX_PREAMBLE_BYTES:
            raise KeyNotRead("it sent no XMPP stream")


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


if __name__ == "__main__":
    sys.exit(main())
