"""Exit codes of the `fedgate` command and of its processes (documented in `fedgate --help`)."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a process of fedgate tells the one that started it."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIGURATION = 3
    CANNOT_BIND = 4
    REDIS_UNREACHABLE = 5
    CERTIFICATE = 6
    WORKER_CANNOT_BOOT = 78


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done, or everything is well",
    ExitCode.FAILURE: "failed while running, or a check was not passed",
    ExitCode.USAGE: "wrong command line",
    ExitCode.CONFIGURATION: "the configuration file is missing or wrong",
    ExitCode.CANNOT_BIND: "an address is taken or may not be bound",
    ExitCode.REDIS_UNREACHABLE: "the Redis of redis.url does not answer at start",
    ExitCode.CERTIFICATE: "a certificate or key is missing, expired or does not match",
    ExitCode.WORKER_CANNOT_BOOT: "a worker cannot boot (never retried by the coordinator)",
}
