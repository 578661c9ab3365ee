"""The rig carries every stanza over the whole path, acknowledged and on the ledger."""

import pytest

from loadtest.micro import stanzas
from loadtest.micro_path import measure_path


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("inbound", [False, True])
def test_every_stanza_arrives_and_is_acknowledged(inbound: bool, tls: bool) -> None:
    """The rig itself fails when stanzas are lost or the account does not add up."""
    samples = measure_path(stanzas(16), inbound=inbound, tls=tls, count=160, repeats=2)
    assert len(samples) == 2
    assert min(samples) > 0
