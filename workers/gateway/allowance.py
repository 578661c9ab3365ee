"""How much may come in a time: token buckets, for which the time is an argument, in seconds.

A bucket is one moment: that until which everything that came is paid for. It is at most `BURST`
seconds in the past, which is what may be saved up.
"""

from collections.abc import Callable
from weakref import WeakValueDictionary

from coordinator.config import Limits
from workers.gateway.herd import site_of

BURST = 1.0
HOUR = 3600.0
# Seconds after which an owner has the worker for itself, if no other has sent anything.
COMPANY = 10.0
# For so many seconds at most an owner stays away for names: one user of an honest server may have
# sent them, and the memory is bounded by `gateway.max_names` all the same.
LONGEST_DEBT = 60.0


class Bucket:
    """So much per second; what was not used is saved for `burst` seconds."""

    __slots__ = ("_burst", "_cost", "_debt", "_paid_until")

    def __init__(self, rate: float, *, burst: float = BURST, debt: float = float("inf")) -> None:
        """`rate` 0: any number. What goes beyond `debt` seconds is forgiven."""
        self._burst = burst
        self._debt = debt
        self._paid_until = float("-inf")
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """So much from now on; what was taken is paid for, or not, as it was."""
        self._cost = 1 / rate if rate else 0.0

    def take(self, count: float, now: float) -> float:
        """Take `count`, whatever is left; returns for how many seconds to take no more."""
        # Twice a read: max and min would cost 0.4 µs.
        paid, oldest, latest = self._paid_until, now - self._burst, now + self._debt
        if paid < oldest:
            paid = oldest
        paid += count * self._cost
        if paid > latest:
            paid = latest
        self._paid_until = paid
        return paid - now

    def take_if_left(self, count: float, now: float) -> bool:
        """Take `count` if so much is there."""
        paid = max(self._paid_until, now - self._burst) + count * self._cost
        if paid > now:
            return False
        self._paid_until = paid
        return True

    def is_full(self, now: float) -> bool:
        """Nothing is known of it that a new one would not say, too."""
        return self._paid_until <= now - self._burst


class Owners:
    """Which of the owners has sent last, since when no other has, and who must be remembered."""

    __slots__ = ("owner", "remembered", "since")

    def __init__(self) -> None:
        self.remembered: set[Allowance] = set()
        """Their sessions may be gone: whoever comes again has no new allowance."""
        self.owner: Allowance | None = None
        self.since = float("-inf")


class Allowance:
    """What the sessions of one remote owner may send together: bytes, stanzas and new names."""

    __slots__ = ("__weakref__", "_bytes", "_names", "_owners", "_stanzas")

    def __init__(
        self,
        bytes_per_second: float,
        stanzas_per_second: float,
        names_per_hour: float = 0,
        owners: Owners | None = None,
    ) -> None:
        self._bytes = Bucket(bytes_per_second)
        self._stanzas = Bucket(stanzas_per_second)
        self._names = Bucket(names_per_hour / HOUR, burst=HOUR, debt=LONGEST_DEBT)
        self._owners = owners or Owners()

    def set_limits(self, limits: Limits) -> None:
        """Those that hold from now on."""
        self._bytes.set_rate(limits.bytes_per_second)
        self._stanzas.set_rate(limits.stanzas_per_second)
        self._names.set_rate(limits.names_per_hour / HOUR)

    def is_alone(self, now: float) -> bool:
        """Something was sent; true if nobody else has for `COMPANY` seconds, whom it could hinder.

        Asked at each read: the number of owners must not matter.
        """
        owners = self._owners
        if owners.owner is not self:
            if owners.owner is not None:
                owners.since = now
            owners.owner = self
        return now - owners.since > COMPANY

    def remember(self) -> None:
        """A session has ended, and what it has used up counts for the next."""
        self._owners.remembered.add(self)

    def take(self, size: int, stanzas: int, now: float) -> float:
        """One read of a session; returns for how many seconds it should not read, 0.0 mostly."""
        rest = max(self._bytes.take(size, now), self._stanzas.take(stanzas, now))
        return max(rest, 0.0)

    def take_names(self, count: int, now: float) -> bool:
        """XML names that no parser here had seen before; false: it was too many, or had been."""
        return self._names.take(count, now) <= 0

    def is_full(self, now: float) -> bool:
        """A new one would allow no more."""
        buckets = (self._bytes, self._stanzas, self._names)
        return all(bucket.is_full(now) for bucket in buckets)


class Allowances:
    """Those of all remote owners that have sessions, or had some a moment ago."""

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self._all: WeakValueDictionary[str, Allowance] = WeakValueDictionary()
        self._owners = Owners()

    def of(self, domain: str) -> Allowance:
        """The domain's, which all domains of the same site share."""
        site = site_of(domain)
        found = self._all.get(site)
        if found is None:
            limits = self._limits()
            found = Allowance(
                limits.bytes_per_second,
                limits.stanzas_per_second,
                limits.names_per_hour,
                self._owners,
            )
            self._all[site] = found
            found.remember()
        return found

    def reload(self) -> None:
        """The limits in force now hold for everybody, whatever they have used up."""
        for each in self._all.values():
            each.set_limits(self._limits())

    def each_second(self, now: float) -> None:
        """Forget whose allowance is as good as new; whoever has a session has it by that."""
        remembered = self._owners.remembered
        remembered -= {each for each in remembered if each.is_full(now)}
