import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator import accounts
from coordinator.accounts import (
    ACCEPTED,
    ACK_SM,
    ACKNOWLEDGED,
    BOUNCED,
    IN_FLIGHT_OURS,
    IN_FLIGHT_RESENDABLE,
    REPLAYED,
    Account,
    account_path,
    balance,
    close_account,
    close_dead_accounts,
    drop_index,
    read_counters,
    sum_accounts,
)

KILLED_WORKER = """
import os, signal, sys
from pathlib import Path
from coordinator.accounts import *
account = Account.create(Path(sys.argv[1]))
account.inbound[ACCEPTED] += 10
account.inbound[ACKNOWLEDGED] += 4
account.inbound[IN_FLIGHT_RESENDABLE] += 3
account.inbound[IN_FLIGHT_OURS] += 2
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Account.create(account_path(tmp_path, "gw1/w1.a"))


def test_a_snapshot_shows_both_directions_as_the_contract_says(account: Account):
    account.outbound[ACCEPTED] += 6
    account.outbound[ACKNOWLEDGED] += 2
    account.outbound[ACK_SM] += 2
    account.outbound[BOUNCED] += 1
    account.outbound[drop_index("type-error")] += 1
    account.outbound[IN_FLIGHT_OURS] += 2
    account.outbound[REPLAYED] += 1
    shown = account.snapshot()
    assert set(shown) == {"outbound", "inbound"}
    assert shown["outbound"] == {
        "accepted": 6,
        "acknowledged": 2,
        "bounced": 1,
        "dropped": {"type-error": 1},
        "returned": 0,
        "in_flight": 2,
        "replayed": 1,
        "acknowledged_by": shown["inbound"]["acknowledged_by"] | {"sm": 2},
    }
    assert {"sm", "xmpp-ping", "websocket-ping"} <= set(shown["inbound"]["acknowledged_by"])
    assert balance(shown["outbound"]) == 0
    assert shown["inbound"]["accepted"] == 0


def test_an_unknown_drop_reason_counts_as_other():
    assert drop_index("never heard of") == drop_index("other")


def test_there_are_at_most_sixteen_reasons():
    assert len(set(accounts.DROP_REASONS)) == len(accounts.DROP_REASONS) <= 16


def test_an_account_is_read_while_it_is_written(account: Account):
    account.inbound[ACCEPTED] += 1
    account.inbound[ACKNOWLEDGED] += 1
    other = Account.open(account.path)
    assert other.snapshot() == account.snapshot()
    assert other.process.pid == os.getpid()
    other.close()


def test_whoever_compares_sees_that_something_was_counted(account: Account, tmp_path: Path):
    before = read_counters(tmp_path, "gw1/w1.a")
    assert before == read_counters(tmp_path, "gw1/w1.a") != b""
    account.inbound[ACK_SM] += 1
    assert read_counters(tmp_path, "gw1/w1.a") != before
    assert read_counters(tmp_path, "gw1/w2.a") == b""


def test_an_account_is_not_created_twice(account: Account):
    with pytest.raises(FileExistsError):
        Account.create(account.path)


def test_what_is_no_account_is_refused_and_put_aside(tmp_path: Path):
    path = tmp_path / "x.account"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="not an account"):
        Account.open(path)
    assert close_dead_accounts(tmp_path) == []
    assert path.with_suffix(".damaged").exists()


def test_the_counters_of_a_killed_worker_survive_and_nothing_stays_in_flight(tmp_path: Path):
    path = account_path(tmp_path, "gw1/w1.a")
    subprocess.run([sys.executable, "-c", KILLED_WORKER, str(path)], check=False)

    assert close_dead_accounts(path.parent) == ["gw1_w1.a"]

    inbound = sum_accounts(path.parent)["inbound"]
    # Killed in the middle of a turn: one accepted stanza was in no counter yet.
    assert inbound["returned"] == 3
    assert inbound["dropped"] == {"worker-lost": 3}
    assert inbound["in_flight"] == 0
    assert balance(inbound) == 0
    assert not path.exists()


def test_a_living_workers_account_stays_open(account: Account):
    assert close_dead_accounts(account.path.parent) == []
    assert account.path.exists()


def test_the_sum_covers_closed_and_open_accounts(account: Account, tmp_path: Path):
    for counters in (account.outbound, account.inbound):
        counters[ACCEPTED] += 5
        counters[ACKNOWLEDGED] += 5
    closed = Account.create(account_path(tmp_path, "gw1/w2.a"))
    closed.outbound[ACCEPTED] += 7
    closed.outbound[IN_FLIGHT_RESENDABLE] += 7
    close_account(closed.path)
    total = sum_accounts(account.path.parent)
    assert (total["outbound"]["accepted"], total["inbound"]["accepted"]) == (12, 5)
    assert total["outbound"]["returned"] == 7


def test_a_crash_between_folding_and_removing_counts_nothing_twice(account: Account):
    account.outbound[ACCEPTED] += 4
    account.outbound[ACKNOWLEDGED] += 4
    content = account.path.read_bytes()
    close_account(account.path)
    account.path.write_bytes(content)  # as if the removal had not happened

    assert sum_accounts(account.path.parent)["outbound"]["accepted"] == 4
    close_account(account.path)
    assert sum_accounts(account.path.parent)["outbound"]["accepted"] == 4
    assert not account.path.exists()


def test_an_account_that_has_more_outcomes_than_stanzas_is_evened_out(account: Account):
    account.outbound[ACKNOWLEDGED] += 2
    close_account(account.path)
    assert sum_accounts(account.path.parent)["outbound"]["accepted"] == 2
