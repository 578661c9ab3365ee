import re
from collections.abc import Callable

from coordinator.accounts import ACCEPTED, ACKNOWLEDGED, Account, account_path, drop_index
from coordinator.admin import metrics
from coordinator.admin.overview import Overview
from coordinator.config import Config
from coordinator.reception import Link


def values(text: str) -> dict[str, float]:
    """Samples by name and labels."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_prometheus_reads_what_the_ledger_and_the_workers_say(
    overview: Overview, connect: Callable[..., Link], config: Config
):
    figures = {"rss_bytes": 1024, "names": 7, "journal_bytes": 512, "journal_entries": 2}
    figures |= {"cpu_seconds": 1.5, "certificate_expires_at": 1e9}
    connect(1, {"sessions": 1, "routes": 4, "refused": {"strangers": 9}, **figures})
    account = Account.create(account_path(config.gateway.state_dir, "gw1/w1.a"))
    account.outbound[ACCEPTED] += 3
    account.outbound[ACKNOWLEDGED] += 2
    account.outbound[drop_index("type-error")] += 1
    read = values(metrics.render(overview))
    assert read['fedgate_stanzas_accepted_total{direction="outbound"}'] == 3
    assert read['fedgate_stanzas_acknowledged_total{direction="outbound"}'] == 2
    assert read['fedgate_stanzas_dropped_total{direction="outbound",reason="type-error"}'] == 1
    assert read['fedgate_stanzas_in_flight{direction="inbound"}'] == 0
    assert read["fedgate_sessions"] == 1
    assert read["fedgate_routes"] == 4
    assert read['fedgate_workers{state="running"}'] == 1
    assert read['fedgate_workers{state="down"}'] == 1
    assert read['fedgate_worker_rss_bytes{worker="w1"}'] == 1024
    assert read['fedgate_worker_names{worker="w1"}'] == 7
    assert read['fedgate_journal_bytes{worker="w1"}'] == 512
    assert read['fedgate_journal_entries{worker="w1"}'] == 2
    assert read['fedgate_worker_sessions{worker="w1"}'] == 1
    assert read['fedgate_worker_cpu_seconds_total{worker="w1"}'] == 1.5
    assert read['fedgate_certificate_expiry_timestamp_seconds{worker="w1"}'] == 1e9
    assert 'fedgate_worker_rss_bytes{worker="w2"}' in read  # down: nothing is held
    assert 'fedgate_worker_names{worker="w2"}' not in read
    assert read["fedgate_reload_success"] == 1
    assert read['fedgate_refused_total{worker="w1",reason="strangers"}'] == 9
    assert read["fedgate_worker_starts_total"] == 1
    assert read['fedgate_degraded{what="worker:w2"}'] == 1
    assert read["fedgate_redis_up"] == 1


def test_no_label_holds_a_domain(overview: Overview, connect: Callable[..., Link]):
    connect(1, {"errors": [{"domain": "evil.example"}], "restart_needed": ['remote."b.example"']})
    assert "example" not in metrics.render(overview)


def test_names_begin_with_fedgate_and_labels_are_escaped(overview: Overview):
    text = metrics.render(overview)
    assert all(re.match(r"(# (HELP|TYPE) )?fedgate_", line) for line in text.splitlines())
    assert metrics._family("x", "gauge", "y", [({"a": 'q"\\\n'}, 1.5)]).endswith(
        'x{a="q\\"\\\\\\n"} 1.5\n'
    )
