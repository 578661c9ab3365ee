"""Stock resolvers ask steering: libunbound (Prosody) and inet_res (ejabberd)."""

import asyncio

import pytest

from tests.workers.gateway.test_steering import CARRIED, NATIVE, RECORDS, steering_for
from tests.workers.gateway.upstream import Upstream

LIBUNBOUND = """
package.cpath = "/usr/lib/x86_64-linux-gnu/lua/5.4/?.so;" .. package.cpath
local forward = { "127.0.0.1@%d" }
local unbound = require "lunbound".new({ resolvconf = false, forward = forward, hoststxt = false })
for _, name in ipairs{ "_xmpps-server._tcp.%s", "_xmpp-server._tcp.%s", "_xmpp-server._tcp.%s" } do
  local answer = unbound:resolve(name, 33, 1)
  local data = answer[1]
  print(answer.rcode, data and data:byte(5) * 256 + data:byte(6))
end
"""
INET_RES = """
inet_db:set_lookup([native]), inet_db:res_option(resolv_conf, ""),
inet_db:res_option(nameservers, [{{127,0,0,1}, %d}]),
[io:format("~w~n", [case inet_res:getbyname(Name, srv, 5000) of
    {ok, {hostent, _, _, srv, 1, [{_, _, Port, Host}]}} -> {Port, list_to_atom(Host)};
    {error, Reason} -> Reason
  end]) || Name <- ["_xmpps-server._tcp.%s", "_xmpp-server._tcp.%s", "_xmpp-server._tcp.%s"]],
halt().
"""


@pytest.mark.servers
@pytest.mark.parametrize(
    ("command", "program", "expected"),
    [
        (["lua5.4", "-e"], LIBUNBOUND, ["3\tnil", "0\t5271", "0\t5269"]),
        (
            ["erl", "-noshell", "-eval"],
            INET_RES,
            ["nxdomain", "{5271,localhost}", "{5269,'xmpp.escalus.example'}"],
        ),
    ],
    ids=["libunbound", "inet_res"],
)
async def test_a_stock_resolver_understands_the_answers(command, program, expected):
    upstream = await Upstream(RECORDS).start()
    steering = steering_for(upstream=upstream.address)
    await steering.start()
    program %= (steering.address.port, CARRIED, CARRIED, NATIVE)
    process = await asyncio.create_subprocess_exec(
        *command, program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert output.decode().splitlines() == expected
    await steering.close()
    await upstream.stop()
