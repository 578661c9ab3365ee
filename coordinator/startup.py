"""The steps of a start. Each failure becomes one line and the exit code that belongs to it."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from coordinator.accounts import account_path
from coordinator.authority import Authority, AuthorityProblem, authority_for
from coordinator.config import Config
from coordinator.embedded import EmbeddedProblem, EmbeddedRedis
from coordinator.exits import ExitCode
from coordinator.handover import socket_name
from coordinator.listeners import CannotBind, Listeners, bind_all
from coordinator.processes import Lock, Locked, keep_private
from coordinator.redis_url import shown_url
from coordinator.routes import gateway_of
from coordinator.store import Store, StoreUnavailable


class StartFailed(Exception):
    """fedgate cannot start; one line with the cause and the next step."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def prepare(state_dir: Path) -> None:
    """Make the state directory: others may pass through it to `ca.pem`, no further."""
    try:
        state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        for name in ("run", "ledger"):
            (state_dir / name).mkdir(mode=0o700, exist_ok=True)
            keep_private(state_dir / name)
    except OSError as exc:
        raise StartFailed(
            f"cannot use {exc.filename}: {exc.strerror}; create it for this user, or change "
            "gateway.state_dir",
            ExitCode.CONFIGURATION,
        ) from exc


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Be the only coordinator of a state directory."""
    lock = Lock(state_dir / "run" / "coordinator.lock")
    try:
        lock.__enter__()
    except Locked as exc:
        raise StartFailed(
            f"another coordinator (pid {exc.holder}) uses {state_dir}; stop it, or give this "
            "gateway a gateway.state_dir of its own",
            ExitCode.FAILURE,
        ) from exc
    except OSError as exc:
        raise StartFailed(
            f"cannot use {exc.filename}: {exc.strerror}; make it writable for this user",
            ExitCode.CONFIGURATION,
        ) from exc
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def remove_socket(run_dir: Path, worker: str) -> None:
    """Remove what a dead worker left for its siblings to connect to."""
    (run_dir / socket_name(worker)).unlink(missing_ok=True)


def remove_stale_sockets(run_dir: Path) -> None:
    """Remove the sockets of workers that died while there was no coordinator."""
    for path in run_dir.glob("*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                pass  # busy, of another kind, or too long a path: not known to be dead


async def bind(config: Config, *, shared: bool, patience: float = 1.0) -> Listeners:
    """Bind all addresses; see `bind_all`.

    An address in use is tried again for `patience` seconds: the kernel frees the lock of a killed
    coordinator before its sockets.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while True:
        try:
            return bind_all(config, shared=shared)
        except CannotBind as exc:
            if not exc.in_use or loop.time() >= deadline:
                raise StartFailed(str(exc), ExitCode.CANNOT_BIND) from exc
        await asyncio.sleep(0.05)


def authority(config: Config) -> Authority:
    """Read or make the private CA."""
    try:
        return authority_for(config)
    except AuthorityProblem as exc:
        raise StartFailed(str(exc), ExitCode.CERTIFICATE) from exc


async def forget_dead_workers(store: Store, config: Config) -> None:
    """Workers of this gateway that have no account any more are dead: take them off the list.

    Without this, what a killed coordinator left would count as alive until its heartbeats run out.
    """
    with contextlib.suppress(StoreUnavailable):
        for worker in await store.live_workers():
            ours = gateway_of(worker) == config.gateway.name
            if ours and not account_path(config.gateway.state_dir, worker).exists():
                await store.leave(worker)


async def connect(store: Store, embedded: EmbeddedRedis | None, patience: float = 5.0) -> None:
    """Start the embedded Redis if it is that, and prove that Redis answers.

    It is asked again for `patience` seconds: a machine that has just booted may have no network.
    """
    try:
        if embedded is not None:
            await embedded.start()
        await _wait_for_answer(store, patience)
    except ValueError as exc:
        raise StartFailed(
            f"redis.url {shown_url(store.url)} is not usable; correct it",
            ExitCode.CONFIGURATION,
        ) from exc
    except EmbeddedProblem as exc:
        raise StartFailed(str(exc), ExitCode.FAILURE) from exc
    except StoreUnavailable as exc:
        raise StartFailed(
            f"no answer from {shown_url(store.url)} ({exc}); start that Redis or correct "
            'redis.url ("" uses an embedded one)',
            ExitCode.REDIS_UNREACHABLE,
        ) from exc


async def _wait_for_answer(store: Store, patience: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while True:
        try:
            await store.connect()
            return
        except StoreUnavailable:
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(0.2)
