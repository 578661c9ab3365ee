"""The stage alone: three stock servers, native s2s over STARTTLS, the test DNS and the test CA."""

import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.stage.stage import Stage
from loadtest.stage.users import User

PEOPLE = (
    "juliet@capulet.example/balcony",
    "romeo@montague.example/orchard",
    "friar@escalus.example/cell",
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def people(native_stage: Stage) -> AsyncIterator[dict[str, User]]:
    yield {jid: await native_stage.login(jid) for jid in PEOPLE}


@pytest.mark.parametrize(("sender", "recipient"), list(itertools.permutations(PEOPLE, 2)))
async def test_every_server_reaches_every_other_natively(
    people: dict[str, User], sender: str, recipient: str
) -> None:
    people[sender].send(recipient, f"from {sender}", id="native-1")
    message = await people[recipient].message(f"from {sender}")
    assert (message.sender, message.id) == (sender, "native-1")


async def test_the_servers_ask_the_stage_dns_and_trust_its_authority(
    native_stage: Stage, people: dict[str, User]
) -> None:
    people[PEOPLE[0]].send(PEOPLE[2], "hello")
    await people[PEOPLE[2]].message("hello")

    assert ("_xmpp-server._tcp.escalus.example", "SRV") in native_stage.dns.queries
    log = native_stage.capulet.log.read_text(errors="replace")
    assert "SASL EXTERNAL with escalus.example succeeded" in log


async def test_an_unknown_domain_is_reported_to_the_sender(people: dict[str, User]) -> None:
    juliet = people[PEOPLE[0]]
    stanza_id = juliet.send("paris@nowhere.example", "hello?")
    error = await juliet.error(stanza_id)
    assert error.condition in ("remote-server-not-found", "remote-server-timeout")
