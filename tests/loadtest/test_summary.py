"""The summary fits one screen, whatever the gateways answer."""

import io

from rich.console import Console

from loadtest.summary import HEIGHT, WIDTH, Answers, summary

ENTRY = {
    **{"accepted": 1503, "acknowledged": 1500, "bounced": 1, "returned": 0, "in_flight": 0},
    **{"replayed": 0, "dropped": {"error-stanza": 1, "iq-result": 1}},
}


def printed(sessions: int, routes: int) -> list[str]:
    session = {
        "domain_pairs": [["capulet.example", "montague.example"]],
        "direction": "outbound",
        "authenticated_by": "external",
        "worker": "capulet-gateway/w1.660e26f71b9a1",
    }
    route = {
        "local": "capulet.example",
        "remote": "montague.example",
        "owner": "capulet-gateway/w2.660e26f72a190",
    }
    gateways = [
        Answers(
            name=name,
            page="http://127.10.21.1:5290/",
            sessions=[session] * sessions,
            routes=[route] * routes,
            ledger={"outbound": ENTRY, "inbound": ENTRY},
        )
        for name in ("capulet", "montague")
    ]
    file = io.StringIO()
    Console(file=file, width=WIDTH).print(summary(gateways))
    return file.getvalue().splitlines()


def test_all_is_shown_when_it_fits() -> None:
    text = "\n".join(printed(sessions=1, routes=1))
    assert text.count("capulet.example ↔ montague.example") == 2
    assert text.count("capulet.example → montague.example") == 2
    assert text.count("1,503") == 4
    assert "…" not in text
    assert "more" not in text


def test_many_rows_are_counted_instead() -> None:
    lines = printed(sessions=50, routes=50)
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    assert (
        text.count("capulet.example ↔ montague.example")
        + int(text.partition("and ")[2].partition(" more")[0])
        == 100
    )


def test_no_sessions_and_no_routes() -> None:
    assert len(printed(sessions=0, routes=0)) <= HEIGHT
