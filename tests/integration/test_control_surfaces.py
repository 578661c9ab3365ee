"""The gateway's own surfaces under attack: other users, other machines, web pages, hostile text."""

import asyncio
import json
import re
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import redis.asyncio as redis_asyncio

from loadtest.stage.addresses import ADMIN_PORT, LOCAL_PORT, STEERING_PORT
from loadtest.stage.peers import FRAMING
from tests.integration.lone_gateway import OWN, PASSWORD, LoneGateway

NOBODY = 65534
PUBLIC_FILES = {"ca.pem", "ca-bundle.pem"}
PAIR = "verona.example"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lone() -> AsyncIterator[LoneGateway]:
    lone = LoneGateway()
    try:
        await lone.start(PAIR)
        yield lone
    finally:
        await lone.stop()


async def test_cs_01_state_is_private_whatever_the_umask(lone: LoneGateway) -> None:
    state = lone.gateway.state_dir
    found = {path.relative_to(state): path.lstat() for path in state.rglob("*")}
    open_to_others = {
        str(path): oct(seen.st_mode & 0o777)
        for path, seen in found.items()
        if seen.st_mode & 0o077 and path.name not in PUBLIC_FILES
    }
    assert open_to_others == {}
    assert {path.name for path in found} >= {"ca.key", "dialback.secret", "coordinator.sock"}
    assert sum(stat.S_ISSOCK(seen.st_mode) for seen in found.values()) >= 3
    assert not state.stat().st_mode & 0o022


def as_nobody(script: str, *arguments: object) -> str:
    # The interpreter itself may be where only root can run it.
    drop = f"import os, socket, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    command = [sys.executable, "-I", "-S", "-c", drop + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_cs_02_other_users_reach_no_socket_and_no_secret(lone: LoneGateway) -> None:
    state = lone.gateway.state_dir
    paths = [path for path in state.rglob("*") if not path.is_dir()]
    script = """
for path in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        try:
            socket.socket(socket.AF_UNIX, kind).connect(path)
            print("connected", path)
        except OSError:
            pass
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags))
            print("opened", path, flags)
        except OSError:
            pass
"""
    # The state directory itself is passable: what is in it must not depend on that.
    seen = as_nobody(script, *paths).splitlines()
    allowed = {f"opened {state / name} 0" for name in PUBLIC_FILES}
    assert set(seen) <= allowed


async def ask(lone: LoneGateway, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    url = f"http://{lone.gateway.address}:{ADMIN_PORT}{path}"
    async with (
        aiohttp.ClientSession() as http,
        http.request(
            method, url, headers={k.replace("_", "-"): v for k, v in headers.items()}
        ) as r,
    ):
        assert "Access-Control-Allow-Origin" not in r.headers
        return r.status, await r.text()


PATHS = ("/", "/api/status", "/api/sessions", "/api/config", "/metrics", "/readyz")


@pytest.mark.parametrize("path", PATHS)
async def test_cs_03_web_pages_of_others_are_told_nothing(lone: LoneGateway, path: str) -> None:
    own = f"{lone.gateway.address}:{ADMIN_PORT}"
    assert (await ask(lone, path))[0] == 200
    assert (await ask(lone, path, Host="localhost:5290"))[0] == 200
    assert (await ask(lone, path, Origin=f"http://{own}"))[0] == 200
    for headers in (
        {"Host": "evil.example"},  # DNS rebinding
        {"Host": f"{own}.evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ):
        for method in ("GET", "POST", "OPTIONS"):
            code, text = await ask(lone, path, method, **headers)
            assert (code, OWN in text) == (403, False), headers
    assert (await ask(lone, path, "POST"))[0] == 405


def given_to(pid: int) -> list[str]:
    """The arguments and the environment of a process, for which there are no secrets."""
    return [Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ")]


async def test_cs_04_no_secret_is_shown_anywhere(lone: LoneGateway) -> None:
    gateway = lone.gateway
    shown = [(await ask(lone, path))[1] for path in PATHS]
    assert "redis://:***@" in "".join(shown)
    for words in (("config", "print"), ("config", "print", "--json"), ("config", "check")):
        _, out, error = await gateway.run_any(*words)
        shown += [out, error]
    for name in ("status", "workers", "errors"):
        shown.append(await gateway.run(name, "--json"))
    shown.append(gateway.log.read_text())
    pids = [gateway.process.pid, *await gateway.worker_pids()]
    shown += [text for pid in pids for text in given_to(pid)]
    secret = (gateway.state_dir / "dialback.secret").read_text().strip()
    for text in shown:
        assert PASSWORD not in text
        assert secret not in text
        assert "PRIVATE KEY" not in text


EVIL_NAMES = [
    "a&#10;2026-01-01 00:00:00,000 CRITICAL forged line",
    "a\u202eexample.",
    "&#x202e;&#x2066;.example",
    "\x7f\u200b\u2028.example",
    "[bold red]x[/].example",
    "x" * 3000,
]


async def test_cs_05_no_stranger_writes_lines_into_the_log(lone: LoneGateway) -> None:
    for name in EVIL_NAMES:
        wire = await lone.dial()
        wire.send(f"<open xmlns='{FRAMING}' from='{name}' to='{OWN}' version='1.0' id='{name}'/>")
        wire.send(f"<stream:error xmlns:stream='x'><text>{name}</text></stream:error>")
        wire.close()
        with pytest.raises(Exception, match="closed"):
            while True:
                await wire.receive(10)
        wire.end()
    await lone.gateway.run("errors", "--json")
    record = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [a-z_.A-Z]+ ")
    lines = lone.gateway.log.read_text().split("\n")[:-1]
    assert len(lines) > 10
    for line in lines:
        assert record.match(line) or line.startswith(("  ", "fedgate: warning: ")), line[:300]
        assert all(c.isprintable() or c == " " for c in line), line[:300]
        assert "CRITICAL forged" not in line[:60]
        assert len(line) < 6000


ASK_STEERING = """
import socket, struct, sys
host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\\0"
opt = b"\\0" + struct.pack("!HHIH", 41, 4096, 0, 0)
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 1) + labels + struct.pack("!HH", 255, 1) + opt
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(5)
udp.sendto(query, (host, port))
answer = udp.recv(65535)
tcp = socket.create_connection((host, port), 5)
tcp.sendall(len(query).to_bytes(2, "big") + query)
tcp.settimeout(5)
try:
    heard = len(tcp.recv(65535))
except ConnectionError:
    heard = 0
print(answer[3] & 15, answer[6] << 8 | answer[7], len(answer) <= len(query), heard)
"""


async def test_cs_06_steering_serves_no_other_machine(lone: LoneGateway) -> None:
    where = (lone.gateway.address, STEERING_PORT, f"_xmpp-server._tcp.{PAIR}")
    refused = await asyncio.to_thread(lone.on_the_stranger, ASK_STEERING, *where)
    assert refused.split() == ["5", "0", "True", "0"]  # REFUSED, no longer than what was asked
    here = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ASK_STEERING, *map(str, where)), stdout=asyncio.subprocess.PIPE
    )
    answered = (await here.communicate())[0].split()
    assert answered[:2] == [b"0", b"1"] and int(answered[3]) > 0


async def refused_start(lone: LoneGateway, table: str, **keys: object) -> str:
    """What `fedgate config check` says to one more key; the running gateway is left alone."""
    saved = json.dumps(lone.gateway.options)
    lone.gateway.configure(table, **keys)
    try:
        code, out, error = await lone.gateway.run_any("up")
    finally:
        lone.gateway.options = json.loads(saved)
        lone.gateway.write_config()
    assert (code, out) == (3, "")
    assert error.count("\n") == 1 and PASSWORD not in error
    return error


async def test_cs_07_what_is_open_to_all_needs_a_yes(lone: LoneGateway) -> None:
    for listen in ("0.0.0.0:5999", "[::]:5999", "93.184.216.34:5999"):
        assert "admin.allow_remote" in await refused_start(lone, "admin", listen=listen)
    for url in (
        f"redis://:{PASSWORD}@10.77.1.1",
        f"rediss://:{PASSWORD}@10.77.1.1?ssl_cert_reqs=none",
        "rediss://10.77.1.1",
    ):
        assert "redis.allow_insecure" in await refused_start(lone, "redis", url=url)
    assert "%XX" in await refused_start(lone, "redis", url=f"redis://:{PASSWORD}/x@10.77.1.1")


async def test_cs_08_hostile_values_in_redis_are_endured(lone: LoneGateway) -> None:
    """Every key that the gateway has, and those it would read, with values of every wrong kind."""
    client = redis_asyncio.Redis.from_url(lone.redis_url)
    before = await lone.gateway.worker_pids()
    lone.dns.records[PAIR, "A"] = [lone.machines.of(30)]
    target = {"url": "ws://[", "ips": ["x"] * 9, "priority": -1, "weight": 1 << 70, "sni": "\0"}
    stored = {"fetched_at": 0, "ttl": -1, "reason": "\x1b[2J", "targets": [target], "pins": [""]}
    try:
        keys = {key async for key in client.scan_iter("*")}
        keys |= {f"fedgate:discovery:{{{PAIR}}}".encode(), b"fedgate:route:{%s}:" % PAIR.encode()}
        keys.add(f"fedgate:route:{{{PAIR}}}:{OWN}".encode())
        values = [b"", b"\xff\x00" * 500, b"[" * 20_000, json.dumps(stored).encode(), b"1e999"]
        for value in values:
            for key in keys:
                await client.set(key, value)
            assert await lone.claim(PAIR) == "error"
            assert (await ask(lone, "/api/routes"))[0] in (200, 503)
            assert (await ask(lone, "/api/status"))[0] == 200
        for key in keys:
            await client.delete(key)
            await client.lpush(key, b"a list")
        assert await lone.claim(PAIR) == "error"
        await client.flushall()
    finally:
        await client.aclose()
    await asyncio.sleep(1.5)  # one heartbeat and more
    await lone.gateway.wait_ready()
    assert await lone.gateway.worker_pids() == before


async def test_cs_09_the_local_port_is_nobody_elses(lone: LoneGateway) -> None:
    """Who speaks for a domain that is not ours is not even answered."""
    reader, writer = await asyncio.open_connection(lone.gateway.address, LOCAL_PORT)
    writer.write(
        b"<?xml version='1.0'?><stream:stream xmlns='jabber:server' version='1.0' "
        b"xmlns:stream='http://etherx.jabber.org/streams' to='verona.example' "
        b"from='not-ours.example'>"
    )
    try:
        async with asyncio.timeout(10):
            said = await reader.read()
    finally:
        writer.close()
    assert b"<proceed" not in said and b"<stream:features" not in said
