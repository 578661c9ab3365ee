"""What `fedgate drain`, `reload`, `restart`, `close`, `reconnect` and `ping` make workers do."""

from collections.abc import Awaitable, Callable
from typing import Any

from coordinator.control import Order, Reply
from coordinator.crew import Crew
from coordinator.domains import InvalidDomain, normalise_domain
from coordinator.logs import escape
from coordinator.reception import Reception, Rows
from coordinator.workforce import Workforce

ASKED = frozenset({"close", "reconnect", "ping"})
"""Orders that are passed on to the workers, who answer for each session."""
ASK_TIMEOUT = 12.0  # seconds for a session to be opened, and for the answer to a ping


async def ask_workers(reception: Reception, order: Order) -> Reply:
    """Pass an order of `ASKED` on; one line of text per session."""
    domain = order.argument
    if domain:
        try:
            domain = normalise_domain(domain)
        except InvalidDomain as exc:
            return Reply(False, str(exc))
    answers = await reception.ask_all(order.verb, domain, timeout=ASK_TIMEOUT)
    rows = [row for rows in answers.values() if rows for row in rows]
    lines = [_line(row) for row in rows]
    lines += [f"{worker}: no answer" for worker, found in answers.items() if found is None]
    if not lines:
        return Reply(False, f"no session with {domain}" if domain else "no session")
    return Reply(all(row.get("ok", True) for row in rows) and bool(rows), "\n".join(lines))


def _line(row: dict[str, Any]) -> str:
    pair = " ↔ ".join(map(str, row.get("pair", ())))
    return escape(f"{pair}: {row.get('text', '')}")


class Orders:
    """The orders about workers themselves, obeyed in the supervisor's loop."""

    def __init__(
        self,
        crew: Crew,
        workforce: Workforce,
        reload: Callable[[], Reply],
        drain_all: Callable[[], None],
    ) -> None:
        self._crew = crew
        self._workforce = workforce
        self._reload = reload
        self._drain_all = drain_all
        self._verbs: dict[str, Callable[[str], Awaitable[Reply]]] = {
            "drain": self._drain,
            "reload": self._reloaded,
            "restart": self._restart,
        }

    async def obey(self, order: Order) -> Reply:
        """Do it, or begin with it."""
        verb = self._verbs.get(order.verb)
        if verb is None:
            known = sorted([*self._verbs, *ASKED])
            return Reply(False, f"unknown order {order.verb!r}; there are {', '.join(known)}")
        return await verb(order.argument)

    async def _reloaded(self, argument: str) -> Reply:
        return self._reload()

    async def _drain(self, name: str) -> Reply:
        if not name:
            self._drain_all()
            return Reply(True, "draining; fedgate stops when nothing is in flight")
        worker = self._workforce.named(name)
        if worker is None:
            names = ", ".join(slot.name for slot in self._workforce.slots)
            return Reply(False, f"no worker {name} runs here; there are {names}")
        self._crew.retire(worker)
        return Reply(True, f"worker {worker} drains; a new one follows")

    async def _restart(self, argument: str) -> Reply:
        if self._crew.is_leaving:
            return Reply(False, "fedgate is about to stop")
        count = await self._crew.restart()
        if not count:
            return Reply(False, "no worker to restart, or all of them have their turn already")
        text = f"{count} workers are replaced one after the other; `fedgate workers` shows them"
        return Reply(True, text)


def rows_of(answers: dict[str, Rows | None]) -> Rows:
    """All rows, each marked with its worker."""
    return [{"worker": worker, **row} for worker, rows in answers.items() for row in rows or ()]
