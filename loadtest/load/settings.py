"""What a fleet of remote domains needs to know; filled in from locust's command line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    url: str
    """The endpoint under test."""
    address: tuple[str, int]
    """Where it is connected to; the URL's name and port decide nothing else."""
    target: str
    """The domain behind it that answers: the sink, or a server of your own."""
    zone: str = "load.example"
    """All remote domains are below this one."""
    prefix: str = ""
    """Of every domain, to tell load processes apart."""
    auth: str = "external"
    """"external" or "dialback"."""
    bidi: bool = True
    resume: bool = True
    listen: tuple[str, int] | None = None
    """Where the endpoint finds us: for dialback, and for answers without bidi."""
    connects: int = 48
    """Sessions being opened at the same moment."""
    settle: float = 15.0
    """Seconds for what is on its way at the end."""

    @property
    def resumption_seconds(self) -> int:
        return 300 if self.resume else 0
