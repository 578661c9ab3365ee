"""The Prometheus text. No label holds what a remote chose: series would grow without end."""

from collections.abc import Iterable, Mapping
from typing import Any

from coordinator.admin.overview import Overview

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OUTCOMES = ("accepted", "acknowledged", "bounced", "returned", "replayed")
_STATES = ("starting", "running", "draining", "stopping", "down")

_PER_WORKER = (
    ("fedgate_worker_sessions", "gauge", "Sessions open.", "sessions"),
    ("fedgate_worker_cpu_seconds_total", "counter", "Processor time used.", "cpu_seconds"),
    ("fedgate_worker_rss_bytes", "gauge", "Resident memory.", "rss_bytes"),
    ("fedgate_worker_descriptors", "gauge", "Descriptors in use.", "descriptors"),
    ("fedgate_worker_names", "gauge", "XML names held, see gateway.max_names.", "names"),
    ("fedgate_journal_bytes", "gauge", "Bytes of stanzas that the journal holds.", "journal_bytes"),
    ("fedgate_journal_entries", "gauge", "Entries of the journal.", "journal_entries"),
    (
        "fedgate_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the first certificate of our own expires.",
        "certificate_expires_at",
    ),
)

Sample = tuple[Mapping[str, str], float]
Family = tuple[str, str, str, Iterable[Sample]]


def render(overview: Overview) -> str:
    """All metrics in the text format 0.0.4."""
    status, workers = overview.status(), overview.workers()
    families = [
        *_own(status, overview),
        *_of_workers(workers),
        *_of_ledger(status["ledger"]),
    ]
    return "".join(_family(*family) for family in families)


def _own(status: dict[str, Any], overview: Overview) -> list[Family]:
    degraded: list[Sample] = [({"what": what}, 1.0) for what in status["degraded"]]
    return [
        ("fedgate_info", "gauge", "Version in use.", [({"version": status["version"]}, 1)]),
        ("fedgate_uptime_seconds", "gauge", "Age of the coordinator.", [({}, status["uptime"])]),
        ("fedgate_ready", "gauge", "1 if anybody accepts.", [({}, float(status["ready"]))]),
        ("fedgate_degraded", "gauge", "1 for each part that is away.", degraded),
        ("fedgate_redis_up", "gauge", "1 if Redis answers.", [({}, float(overview.redis_up))]),
        (
            "fedgate_reload_success",
            "gauge",
            "0 if the last reload changed nothing, for an error.",
            [({}, float(overview.reloaded))],
        ),
        ("fedgate_sessions", "gauge", "Sessions open.", [({}, status["sessions"])]),
        ("fedgate_routes", "gauge", "Routes owned by our workers.", [({}, status["routes"])]),
        (
            "fedgate_worker_starts_total",
            "counter",
            "Worker processes started.",
            [({}, overview.starts())],
        ),
    ]


def _of_workers(workers: list[dict[str, Any]]) -> list[Family]:
    by_state: list[Sample] = [
        ({"state": state}, float(sum(worker["state"] == state for worker in workers)))
        for state in _STATES
    ]
    # By slot, not by id: an incarnation per label value would leave a dead series at each restart.
    families: list[Family] = [("fedgate_workers", "gauge", "Worker processes by state.", by_state)]
    for name, kind, help, key in _PER_WORKER:
        # What a worker has not said yet is not zero.
        sizes: list[Sample] = [
            ({"worker": worker["slot"]}, float(worker[key]))
            for worker in workers
            if worker["state"] not in ("draining", "stopping") and worker.get(key) is not None
        ]
        families.append((name, kind, help, sizes))
    refused: list[Sample] = [
        ({"worker": worker["slot"], "reason": reason}, float(count))
        for worker in workers
        if worker["state"] not in ("draining", "stopping")
        for reason, count in (worker.get("refused") or {}).items()
    ]
    help = "Connections and sessions refused or cut, by the limit that they met."
    return [*families, ("fedgate_refused_total", "counter", help, refused)]


def _of_ledger(ledger: dict[str, Any]) -> list[Family]:
    families: list[Family] = [
        (
            f"fedgate_stanzas_{outcome}_total",
            "counter",
            f"Stanzas {outcome}.",
            [({"direction": way}, float(ledger[way][outcome])) for way in ledger],
        )
        for outcome in _OUTCOMES
    ]
    dropped: list[Sample] = [
        ({"direction": way, "reason": reason}, float(count))
        for way in ledger
        for reason, count in ledger[way]["dropped"].items()
    ]
    by: list[Sample] = [
        ({"direction": way, "by": kind}, float(count))
        for way in ledger
        for kind, count in ledger[way]["acknowledged_by"].items()
    ]
    waiting: list[Sample] = [
        ({"direction": way}, float(ledger[way]["in_flight"])) for way in ledger
    ]
    return [
        *families,
        ("fedgate_stanzas_dropped_total", "counter", "Dropped, by reason.", dropped),
        ("fedgate_stanzas_acknowledged_by_total", "counter", "Proof of delivery.", by),
        ("fedgate_stanzas_in_flight", "gauge", "Accepted and not settled yet.", waiting),
    ]


def _family(name: str, kind: str, help: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {help}\n", f"# TYPE {name} {kind}\n"]
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        number = int(value) if float(value).is_integer() else value
        lines.append(f"{name}{'{' + shown + '}' if shown else ''} {number}\n")
    return "".join(lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
