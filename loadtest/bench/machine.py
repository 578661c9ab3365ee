"""What the figures depend on: this machine, and how its processes spend its time."""

import os
import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from lxml import etree
from OpenSSL import SSL

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds: in steps of this the kernel tells what a process has spent."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything a figure should be quoted with."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    lxml: str
    libxml2: str
    openssl: str
    load: float
    """Load average of the last minute when it was asked."""

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB, "
            f"Linux {self.kernel}, "
            f"Python {self.python}, lxml {self.lxml} (libxml2 {self.libxml2}), {self.openssl}, "
            f"load average {self.load:.1f} before"
        )


def machine() -> Machine:
    """This one."""
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE
    return Machine(
        _processor(),
        len(os.sched_getaffinity(0)),
        memory / 2**30,
        platform.release(),
        # Builds of one version differ by more than versions do, so where it is belongs to it.
        f"{platform.python_version()} ({os.path.realpath(sys.executable)})",
        etree.__version__,
        ".".join(map(str, etree.LIBXML_VERSION)),
        # What the worker's TLS runs on; Python's own ssl may be linked to another.
        " ".join(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode().split()[:2]),
        os.getloadavg()[0],
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def cpu_seconds(pid: int) -> float:
    """User and system time a process has spent, all threads, in steps of `TICK`."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def waited_seconds(pid: int) -> float:
    """For how long a process's main thread was ready to run and others had the cores."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def all_descriptors() -> int:
    """Let this process, and those it starts, open as many files as it may; how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
