"""Attacks are seen to be refused, or not."""

import dataclasses

import pytest

from loadtest.load import attacks
from loadtest.load.attacks import MESSAGES, NotRefused, Victim, send_bad, wrong_certificate
from loadtest.load.certificates import LoadAuthority
from tests.loadtest.load.endpoint import Endpoint
from workers.gateway.tls import client_context

ATTACKER, OTHER = "mallory.load.example", "other.load.example"


@pytest.fixture
def victim(authority: LoadAuthority, endpoint: Endpoint) -> Victim:
    return Victim(
        endpoint.settings(),
        ATTACKER,
        OTHER,
        client_context(authority.issue(ATTACKER)),
        client_context(authority.issue(OTHER)),
        authority.dialback_secret,
    )


@pytest.mark.parametrize("attack", MESSAGES)
async def test_an_endpoint_with_our_parser_refuses_every_message(
    victim: Victim, attack: str
) -> None:
    await send_bad(victim, attack)


async def test_an_endpoint_that_takes_any_certificate_is_found_out(victim: Victim) -> None:
    with pytest.raises(NotRefused, match="certificate"):
        await wrong_certificate(victim)


async def test_an_endpoint_that_goes_along_is_found_out(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "PATIENCE", 0.2)
    monkeypatch.setitem(
        MESSAGES,
        "nothing bad",
        lambda victim: (
            f"<presence xmlns='jabber:server' from='a@{ATTACKER}' to='echo@sink.example'/>"
        ),
    )
    with pytest.raises(NotRefused, match="nothing bad"):
        await send_bad(victim, "nothing bad")


async def test_an_endpoint_that_refuses_the_certificate_is_well(
    victim: Victim, endpoint: Endpoint
) -> None:
    await wrong_certificate(
        dataclasses.replace(victim, settings=endpoint.settings(target="no.example"))
    )
