"""Where the environment names an xmpp-proxy it is set up and measured; else the row says so.

A relay stands in for it here. It finds its peer by the same means (resolvers of the system,
host-meta.json, trusted authorities, its own certificate) and passes bytes on, without a WebSocket.
"""

import sys
from pathlib import Path

import pytest

from loadtest.bench.proxy import VARIABLE, proxy
from loadtest.bench.row import Row
from loadtest.bench.run import Run

RELAY = """#!{python}
import asyncio, json, re, socket, ssl, sys, tomllib, urllib.request

config = tomllib.load(open(sys.argv[1], "rb"))
TO = re.compile(rb" to=['\\"]([^'\\"]+)")


def find(domain):
    with urllib.request.urlopen(f"https://{{domain}}/.well-known/host-meta.json") as answer:
        link = json.load(answer)["links"][0]
    return link["ips"][0], link["sni"]


async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def dial(reader, writer):
    header = await reader.readuntil(b">")
    while b"stream:stream" not in header:
        header += await reader.readuntil(b">")
    address, name = await asyncio.to_thread(find, TO.search(header)[1].decode())
    context = ssl.create_default_context()
    context.load_cert_chain(config["tls_cert"], config["tls_key"])
    there, back = await asyncio.open_connection(address, 443, ssl=context, server_hostname=name)
    back.write(header)
    await asyncio.gather(pipe(reader, back), pipe(there, writer))


async def accept(reader, writer):
    there, back = await asyncio.open_connection(*config["s2s_target"].split(":"))
    await asyncio.gather(pipe(reader, back), pipe(there, writer))


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(config["tls_cert"], config["tls_key"])
    for each in config.get("outgoing_listen", []):
        await asyncio.start_server(dial, *each.split(":"))
    for each in config.get("incoming_listen", []):
        await asyncio.start_server(accept, *each.split(":"), ssl=context)
    await asyncio.Event().wait()


asyncio.run(main())
"""


async def _rows() -> list[Row]:
    return [row async for row in proxy(Run(stanzas=3000, repeats=1))]


async def test_without_a_binary_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    (row,) = await _rows()
    assert row.note.startswith("not measured")
    assert row.median is None


@pytest.mark.servers
async def test_what_the_environment_names_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = tmp_path / "relay"
    relay.write_text(RELAY.format(python=sys.executable))
    relay.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(relay))
    (row,) = await _rows()
    assert row.samples and row.samples[0] > 0
    assert row.ratio is not None and row.base_name == "two fedgates"
