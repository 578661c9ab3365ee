from typing import Any

import pytest

from coordinator.control import Order, Reply
from coordinator.orders import Orders, ask_workers, rows_of


class Asked:
    """Stands for the workers: answers as told, and keeps what it was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.seen: list[tuple[str, str]] = []

    async def ask_all(self, verb: str, argument: str, *, timeout: float) -> dict[str, Any]:
        self.seen.append((verb, argument))
        return self.answers


PAIR = ["a.example", "b.example"]


@pytest.mark.parametrize(
    ("answers", "reply"),
    [
        (
            {"w1": [{"pair": PAIR, "text": "reopened", "ok": True}], "w2": []},
            Reply(True, "a.example ↔ b.example: reopened"),
        ),
        (
            {"w1": [{"pair": PAIR, "text": "lost", "ok": False}]},
            Reply(False, "a.example ↔ b.example: lost"),
        ),
        (
            {"w1": [{"pair": PAIR, "text": "x\n\x1b[2J", "ok": False}]},
            Reply(False, "a.example ↔ b.example: x\\x0a\\x1b[2J"),
        ),
        ({"w1": [], "w2": None}, Reply(False, "w2: no answer")),
        ({"w1": []}, Reply(False, "no session with b.example")),
    ],
)
async def test_what_workers_answer_becomes_lines(answers: dict[str, Any], reply: Reply):
    workers = Asked(answers)
    assert await ask_workers(workers, Order("reconnect", "B.Example")) == reply  # type: ignore[arg-type]
    assert workers.seen == [("reconnect", "b.example")]


async def test_a_name_that_is_no_domain_is_not_passed_on():
    workers = Asked({})
    assert not (await ask_workers(workers, Order("ping", "no domain"))).ok  # type: ignore[arg-type]
    assert not workers.seen


def test_rows_carry_their_worker():
    assert rows_of({"w1": [{"a": 1}], "w2": None}) == [{"worker": "w1", "a": 1}]


class FakeCrew:
    is_leaving = False

    def __init__(self) -> None:
        self.retired: list[Any] = []

    def retire(self, worker: Any) -> None:
        self.retired.append(worker)

    async def restart(self) -> int:
        return 2


class FakeWorkforce:
    slots: tuple[Any, ...] = ()

    def named(self, name: str) -> str | None:
        return "gw/w1.a" if name == "w1" else None


async def test_each_order_goes_where_it_belongs():
    crew, drained = FakeCrew(), []
    orders = Orders(
        crew,  # type: ignore[arg-type]
        FakeWorkforce(),  # type: ignore[arg-type]
        lambda: Reply(True, "read again"),
        lambda: drained.append(True),
    )
    assert await orders.obey(Order("reload")) == Reply(True, "read again")
    assert (await orders.obey(Order("drain"))).ok and drained
    assert (await orders.obey(Order("drain", "w1"))).ok and crew.retired == ["gw/w1.a"]
    assert not (await orders.obey(Order("drain", "w9"))).ok
    assert (await orders.obey(Order("restart"))).text.startswith("2 workers")
    assert not (await orders.obey(Order("fly"))).ok
    crew.is_leaving = True
    assert not (await orders.obey(Order("restart"))).ok
