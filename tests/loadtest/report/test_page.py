"""The HTML page."""

import re
from html.parser import HTMLParser

from loadtest.report.figures import Run, figures
from loadtest.report.page import page

_VOID = {"meta", "path", "br"}


class Outline(HTMLParser):
    """Checks that elements are closed in order; collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.values: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.values += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_the_page_loads_nothing(run: Run) -> None:
    text = page(figures(run))
    assert outline(text).values == []
    assert not re.search(r"@import|url\(|<script|<link", text)


def test_the_page_tells_losses_and_errors(run: Run) -> None:
    found = outline(page(figures(run)))
    for words in ("chat", "iq ping", "remote-server-timeout", "connection <lost>", "worker w1"):
        assert words in found.text
    assert "<lost>" not in page(figures(run)).replace("&lt;lost&gt;", "")


def test_what_must_not_happen_is_red(run: Run) -> None:
    text = page(figures(run))
    assert "<td class='bad'>1</td>" in text  # lost
    assert "<td class='bad'>2</td>" in text  # reordered


def test_attacks_that_were_not_refused_are_red(run: Run) -> None:
    run.record.attacks = {"oversize": 3, "forged from": 2}
    run.record.unrefused = {"forged from": 1}
    text = page(figures(run))
    assert "<tr><td>oversize</td><td>3</td><td>0</td>" in text
    assert "<tr><td>forged from</td><td>2</td><td class='bad'>1</td>" in text


def test_thresholds_are_told(run: Run) -> None:
    run.options["fail_if"] = ["lost>0"]
    assert "passed: none of lost&gt;0" in page(figures(run))
    run.broken = ["lost>0"]
    assert "failed by lost&gt;0" in page(figures(run))


def test_a_run_without_anything_has_a_page() -> None:
    outline(page(figures(Run())))
