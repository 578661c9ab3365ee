"""From what was noted to what is reported: sums, percentiles, lines over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loadtest.load.account import COUNTS, Account
from loadtest.load.histogram import Histogram
from loadtest.load.processes import Usage
from loadtest.load.record import Record
from loadtest.load.thresholds import Threshold

FORMAT = 1
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_EXPECTED_END = "cut by the load test"
# Seconds that the line of progress sums up.
_RECENT = 3

Metrics = dict[str, float | None]


@dataclass(slots=True)
class Run:
    """One run, from one process or merged from many; `started_at` is Unix time."""

    record: Record = field(default_factory=Record)
    usages: dict[str, Usage] = field(default_factory=dict)
    started_at: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """Thresholds that the run failed by."""

    @property
    def seconds(self) -> float:
        """From the first stanza to the last answer; at least one second."""
        busy = [at for at, each in self.record.seconds.items() if each.sent or each.delivered]
        return float(max(busy) - min(busy) + 1) if busy else 1.0

    def take_usages(self, told: Mapping[str, Any]) -> None:
        """Processes as a worker has told of them."""
        for name, values in told.items():
            self.usages[name] = Usage.from_json(values)


def progress(records: Sequence[Record], elapsed: float) -> str:
    """One line on how it goes: the last full seconds, and what went wrong so far."""
    last = max((max(record.seconds, default=0) for record in records), default=0)
    seconds = [
        (at, record.seconds[at])
        for record in records
        for at in range(last - _RECENT, last)
        if at in record.seconds
    ]
    latency = Histogram()
    for _, second in seconds:
        latency.merge(second.latency)
    accounts = [account for record in records for account in record.accounts.values()]
    newest = max((at for at, _ in seconds), default=0)
    of = max(1, len({at for at, _ in seconds}))
    return (
        f"{elapsed:5.0f} s  "
        f"{sum(second.sessions for at, second in seconds if at == newest):5} sessions  "
        f"{sum(second.sent for _, second in seconds) / of:7.0f}/s out  "
        f"{sum(second.delivered for _, second in seconds) / of:7.0f}/s back  "
        f"p50 {_ms(latency.percentile(0.5))}  p99 {_ms(latency.percentile(0.99))}  "
        f"{sum(each.bounces for each in accounts)} bounced  "
        f"{sum(each.doubled for each in accounts)} doubled  "
        f"{sum(each.reordered for each in accounts)} reordered "
    )


def metrics(run: Run) -> dict[str, Metrics]:
    """What thresholds may name: of the whole run under "", and of each scenario."""
    record, seconds = run.record, run.seconds
    whole = _metrics(_sum(record), seconds)
    whole["sessions"] = max((each.sessions for each in record.seconds.values()), default=0)
    whole["connects"] = sum(each.connects for each in record.seconds.values())
    whole["refused"] = sum(record.refusals.values())
    whole["ended"] = sum(n for reason, n in record.ends.items() if reason != _EXPECTED_END)
    whole["unrefused"] = sum(record.unrefused.values())
    whole["rss_growth"] = max((each.rss_growth for each in run.usages.values()), default=0.0)
    return {"": whole} | {
        name: _metrics(account, seconds) for name, account in sorted(record.accounts.items())
    }


def check_metric(threshold: Threshold) -> None:
    """Raises `InvalidThreshold` if no run has such a metric. Names of scenarios show at the end."""
    whole = metrics(Run())[""]
    replace(threshold, name="").holds({"": whole})


def figures(run: Run) -> dict[str, Any]:
    """All of it, as JSON takes it. Latencies are milliseconds, memory is bytes."""
    record = run.record
    found = metrics(run)
    bounced: dict[str, int] = {}
    for account in record.accounts.values():
        for condition, count in account.bounced.items():
            bounced[condition] = bounced.get(condition, 0) + count
    return {
        "format": FORMAT,
        "started_at": run.started_at,
        "seconds": run.seconds,
        "options": run.options,
        "totals": found.pop(""),
        "scenarios": found,
        "errors": {
            "bounced": bounced,
            "sessions ended": record.ends,
            "sessions refused": record.refusals,
            "attacks not refused": record.unrefused,
        },
        "attacks": record.attacks,
        "broken": run.broken,
        "timeline": _timeline(record),
        "processes": {name: _process(each) for name, each in sorted(run.usages.items())},
    }


def _sum(record: Record) -> Account:
    total = Account()
    for account in record.accounts.values():
        total.merge(replace(account, latency=Histogram()) if account.is_apart else account)
    return total


def _metrics(account: Account, seconds: float) -> Metrics:
    counts: Metrics = {name: getattr(account, name) for name in COUNTS}
    counts["bounced"] = account.bounces
    counts["rate"] = account.delivered / seconds
    return counts | {name: account.latency.percentile(share) for name, share in PERCENTILES.items()}


def _timeline(record: Record) -> list[dict[str, Any]]:
    first = min(record.seconds, default=0)
    return [
        {
            "t": at - first,
            "sent": second.sent,
            "delivered": second.delivered,
            "failed": second.failed,
            "sessions": second.sessions,
            "connects": second.connects,
            **{
                name: second.latency.percentile(PERCENTILES[name]) for name in ("p50", "p95", "p99")
            },
        }
        for at, second in sorted(record.seconds.items())
    ]


def _process(usage: Usage) -> dict[str, Any]:
    rss = [each[2] for each in usage.samples]
    first = usage.samples[0][0] if usage.samples else 0
    return {
        "cpu_seconds": round(usage.cpu_seconds, 2),
        "rss_first": rss[0] if rss else 0,
        "rss_last": rss[-1] if rss else 0,
        "rss_most": max(rss, default=0),
        "rss_growth": usage.rss_growth,
        "started_at": first,
        "samples": [[at - first, share, memory] for at, share, memory in usage.samples],
    }


def _ms(value: float | None) -> str:
    return "     –" if value is None else f"{value:6.1f}" if value < 1000 else f"{value:6.0f}"
