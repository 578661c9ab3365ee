import asyncio
import time

import pytest

from coordinator import leaves as module
from coordinator.authority import Leaf
from coordinator.leaves import ControlPlaneUnavailable, Leaves


class Coordinator:
    """Issues leaves of `lifetime` seconds, or none."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.lifetime: float | None = 86400.0

    async def ask(self, domain: str, purpose: str) -> Leaf:
        self.asked.append((domain, purpose))
        await asyncio.sleep(0)
        if self.lifetime is None:
            raise ControlPlaneUnavailable("away")
        return Leaf(b"certificate", b"key", time.time() + self.lifetime)


async def test_many_who_want_a_leaf_ask_once_and_it_is_kept():
    coordinator = Coordinator()
    leaves = Leaves(coordinator.ask)
    got = await asyncio.gather(*(leaves.get("b.example", "route") for _ in range(5)))
    assert len(set(got)) == 1 and await leaves.get("b.example", "session") == got[0]
    assert coordinator.asked == [("b.example", "route")]


@pytest.mark.parametrize(("left", "serves"), [(600.0, True), (10.0, False)])
async def test_a_leaf_near_its_end_serves_while_nobody_issues_another(left, serves):
    coordinator = Coordinator()
    coordinator.lifetime = left
    leaves = Leaves(coordinator.ask)
    leaf = await leaves.get("b.example", "route")
    coordinator.lifetime = None
    if serves:
        assert await leaves.get("b.example", "route") == leaf
    else:
        with pytest.raises(ControlPlaneUnavailable):
            await leaves.get("b.example", "route")
    assert len(coordinator.asked) == 2


async def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_LEAVES", 2)
    leaves = Leaves(Coordinator().ask)
    for domain in ("a.example", "b.example", "c.example"):
        await leaves.get(domain, "route")
    assert list(leaves.kept) == ["b.example", "c.example"]
