"""The vocabulary of scenarios: a locust user that is a remote server of its own domain."""

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from locust import User, task

from loadtest.load import messages
from loadtest.load.attacks import MESSAGES, NotRefused, Victim, send_bad, wrong_certificate
from loadtest.load.domain import RemoteDomain
from loadtest.load.processes import gateway_workers
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import SeeOtherUri

__all__ = ["RemoteServer", "at_random", "every", "task"]

WRONG_CERTIFICATE = "wrong certificate"


def at_random(rate: str, *, batch: str = "burst", per: float = 1.0) -> Callable[[Any], float]:
    """Wait so that stanzas come at random moments (Poisson), whatever became of earlier ones.

    `rate` and `batch` name options: stanzas per second of a domain, and how many a task sends at
    once. A task happens `per` times less often than that. What a busy process missed is made up.
    """

    def wait(user: Any) -> float:
        options = user.options
        mean = per * getattr(options, batch) / getattr(options, rate)
        user.next_at += random.expovariate(1 / mean)
        return max(0.0, float(user.next_at) - time.monotonic())

    return wait


def every(seconds: str) -> Callable[[Any], float]:
    """Wait for as long as the option says."""

    def wait(user: Any) -> float:
        return float(getattr(user.options, seconds))

    return wait


class RemoteServer(User):
    """Connected before its first task. `number` counts the servers of its scenario from 0."""

    abstract = True
    domain: RemoteDomain
    first: RemoteDomain
    """Of the first server of this scenario."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.load = environment.load
        self.options = environment.parsed_options
        self.number = 0

    def on_start(self) -> None:
        self.number = self.load.next_number(type(self).__name__)
        self.domain = self.load.new_domain()
        self.first = self.load.first_of(type(self).__name__, self.domain)
        self.next_at = self.begun_at = time.monotonic()
        # Not all of them in step with the moment they were spawned.
        time.sleep(max(0.0, self.wait_time()))

    def on_stop(self) -> None:
        if hasattr(self, "domain"):
            self.load.retire(self.domain)

    # What a server can do. Nothing here waits for an answer.

    def user(self, name: str) -> str:
        """The address of a user of the endpoint's domain; without a name the domain itself."""
        return f"{name}@{self.options.target}" if name else str(self.options.target)

    def own(self, name: str) -> str:
        """The name as this load process's own, where several share a sink."""
        return f"{name}{self.load.fleet.settings.prefix}"

    @property
    def echo(self) -> str:
        """Who answers everything."""
        return self.user(self.options.echo)

    def send_messages(
        self, name: str, to: str, *, count: int = 0, size: int = 0, type: str = "chat"
    ) -> None:
        domain, text = self.domain, messages.body(size or self.options.size)
        self._repeat(count, lambda: domain.send_message(name, to, text, type))

    def send_pings(self, name: str, to: str, *, count: int = 0) -> None:
        domain = self.domain
        self._repeat(count, lambda: domain.send_ping(name, to))

    def send_presences(self, name: str, to: str, *, count: int = 0) -> None:
        domain = self.domain
        self._repeat(count, lambda: domain.send_presence(name, to))

    def join(self, name: str, room: str) -> None:
        domain = self.domain
        self.load.call(lambda: domain.join(name, room))

    def read_slowly(self, name: str) -> None:
        """From now on; what is counted under `name` is slow on purpose."""
        domain, share = self.domain, self.options.read_share
        self.load.call(lambda: domain.read_slowly(share, name))

    # What takes its time: the user waits for it.

    def reconnect(self) -> None:
        """Close the session in order and open another."""
        self.load.run(self.domain.reconnect)

    def is_due(self, option: str) -> bool:
        """Whether so many seconds have passed since it was due last."""
        if time.monotonic() - self.begun_at < getattr(self.options, option):
            return False
        self.begun_at = time.monotonic()
        return True

    def attack_at_random(self) -> None:
        """An attack succeeds for us when the endpoint refuses it."""
        domain = self.domain
        attacks = [*MESSAGES]
        if self.options.auth == "external":
            attacks.append(WRONG_CERTIFICATE)
        attack = random.choice(attacks)
        victim = self.load.victim(domain)
        started_at, error = time.monotonic(), ""
        try:
            self.load.run(lambda: _attack(victim, attack))
        except NotRefused as exc:
            error = str(exc)
        except (HopFailed, SeeOtherUri, OSError):
            return  # not even begun: the endpoint is away, and others tell of that
        seconds, fleet = time.monotonic() - started_at, self.load.fleet
        self.load.call(lambda: fleet.note_attack(attack, seconds, error))

    # What is done to everybody.

    def cut_all_sessions(self) -> None:
        self.load.call(self.load.fleet.cut_all)

    def kill_a_worker(self) -> None:
        """KILL, for one of those that the admin API names."""
        workers = gateway_workers(self.options.admin)
        if not workers:
            self.load.fire("chaos", "kill worker", None, "--admin names no running worker")
            return
        os.kill(random.choice(list(workers.values())), signal.SIGKILL)
        self.load.fire("chaos", "kill worker", 0.0)

    def _repeat(self, count: int, send: Callable[[], None]) -> None:
        """One crossing to the engine's thread for all of them."""
        times = count or self.options.burst

        def send_all() -> None:
            for _ in range(times):
                send()

        self.load.call(send_all)


async def _attack(victim: Victim, attack: str) -> None:
    if attack == WRONG_CERTIFICATE:
        await wrong_certificate(victim)
    else:
        await send_bad(victim, attack)
