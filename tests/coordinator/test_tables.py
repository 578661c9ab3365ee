from typing import Any

from rich.console import Console

from coordinator.tables import table

NOW = 1_800_000_000.0


def shown(noun: str, answer: Any) -> list[str]:
    """The lines of the table as a terminal of 160 columns shows them."""
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(noun, answer, now=NOW))
    return [line.strip() for line in capture.get().splitlines() if line.strip()]


def test_workers_are_rows_in_reading_order() -> None:
    answer = [
        {"routes": 2, "id": "gw1/w1.5f", "pid": 12345, "rss_bytes": 47185920, "state": "running",
         "sessions": 1200, "restarts": None, "ledger": {"outbound": {}}}
    ]  # fmt: skip

    head, _rule, row = shown("workers", answer)

    assert head.split() == ["id", "pid", "state", "sessions", "routes", "rss", "bytes", "restarts"]
    assert row.split() == ["gw1/w1.5f", "12345", "running", "1,200", "2", "45.0", "MiB", "–"]


def test_sessions_show_their_pairs_and_age() -> None:
    answer = [
        {
            "domain_pairs": [["capulet.example", "montague.example"]],
            "direction": "outbound",
            "since": NOW - 7300,
            "authenticated_by": ["external", "dialback"],
            "bidi": False,  # not among what fits a terminal
        }
    ]

    _head, _rule, row = shown("sessions", answer)

    assert "capulet.example ↔ montague.example" in row
    assert "2 h ago" in row
    assert "external, dialback" in row


def test_an_empty_answer_says_so() -> None:
    assert shown("routes", [])[0].startswith("no routes")
    assert shown("errors", {"errors": []})[0] == "no errors"


def test_a_page_of_rows_under_the_noun_is_the_same_table() -> None:
    rows = [{"local": "a.example", "remote": "b.example", "owner": "gw1/w1", "epoch": 1234}]

    assert shown("routes", {"routes": rows, "cursor": 0}) == shown("routes", rows)


def test_rows_that_are_no_tables_are_shown_as_they_are() -> None:
    assert shown("errors", ["first", "second"])[-1] == "second"


def test_the_ledger_has_a_column_for_each_direction() -> None:
    side = {"accepted": 5001, "dropped": {"error": 1}, "acknowledged_by": {"sm": 5000}}

    lines = shown("ledger", {"outbound": side, "inbound": {**side, "accepted": 7}})

    assert lines[0].split() == ["stanzas", "outbound", "inbound"]
    assert [line.split() for line in lines[2:]] == [
        ["accepted", "5,001", "7"],
        ["dropped", "error", "1", "1"],
        ["acknowledged_by", "sm", "5,000", "5,000"],
    ]


def test_status_is_a_list_of_facts() -> None:
    answer = {"state": "running", "degraded": ["redis"], "load": {"cpu": 0.5}, "since": NOW + 60}
    answer |= {"uptime": 300.5, "ledger": {"outbound": {"accepted": 1}}, "started_at": NOW}

    lines = [line.split() for line in shown("status", answer)[2:]]

    assert lines == [
        ["state", "running"],
        ["degraded", "redis"],
        ["load", "cpu", "0.50"],
        ["since", "in", "60", "s"],
        ["uptime", "5", "min"],
        ["started_at", "0", "s", "ago"],
    ]


def test_times_are_spans_in_the_largest_fitting_unit() -> None:
    rows = [{"at": NOW - span} for span in (5, 600, 10000, 900000)]

    assert shown("errors", rows)[2:] == [
        "5 s ago",
        "10 min ago",
        "3 h ago",
        "10 d ago",
    ]


def test_text_of_peers_cannot_steer_the_terminal() -> None:
    rows = [{"domain": "b.example", "reason": "\x1b[2J\r\n[bold]x[/bold]" + "y" * 1000}]

    text = "\n".join(shown("errors", rows))

    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text
    assert text.count("y") < 300


def test_nested_values_are_flattened_to_text() -> None:
    _head, _rule, row = shown("errors", [{"worker": "w1", "by": {"a": 1}, "none": []}])

    assert row.split() == ["w1", "a=1", "–"]
