"""What `fedgate attach` does besides printing: the private CA, and the pins of the local server."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator import pins
from coordinator.authority import authority_for
from coordinator.config import Config

TIMEOUT = 30.0


class AttachFailed(Exception):
    """The state directory or the reader of keys cannot be used; one line with the next step."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the local server showed: a key per domain, and a reason for each domain without."""

    keys: Mapping[str, str]
    failures: Mapping[str, str]


def prepare_state(config: Config) -> None:
    """Make the state directory and the private CA if absent.

    Raises `AttachFailed`, `AuthorityProblem`.
    """
    directory = Path(config.gateway.state_dir)
    try:
        # Passable for the local server's user, who must read ca.pem in it; secrets are 0600.
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        owner = directory.stat().st_uid
    except OSError as exc:
        raise AttachFailed(
            f"cannot make {directory}: {exc.strerror}; create it for the user that runs fedgate"
        ) from exc
    if owner != os.geteuid():
        raise AttachFailed(
            f"{directory} belongs to {_user(owner)}, who could not read what is written now; "
            f"run this as that user: sudo -u {_user(owner)} fedgate attach …"
        )
    authority_for(config)


def read_keys(config_path: str) -> Reading:
    """Ask the local server for its keys, in a process of the data plane. Raises `AttachFailed`."""
    command = [sys.executable, "-P", "-m", "workers.attach", "--config", config_path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        answer = json.loads(done.stdout)
        return Reading(answer["keys"], answer["failures"])
    except subprocess.TimeoutExpired as exc:
        raise AttachFailed(f"reading keys took over {TIMEOUT:g} s; try again") from exc
    except (ValueError, KeyError, TypeError) as exc:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise AttachFailed(f"the reader of keys failed ({reason}); report it") from exc


def pin(config: Config, reading: Reading) -> list[str]:
    """Store the keys that were read, replacing older ones. Returns warnings, one line each.

    Raises `PinsUnreadable`, `OSError`.
    """
    state_dir = config.gateway.state_dir
    before = pins.load(state_dir)
    lines = [
        f"the key of {domain} has changed since the last attach: "
        f"{before[domain][0][:16]}… is now {key[:16]}…"
        for domain, key in reading.keys.items()
        if before.get(domain) and key not in before[domain]
    ]
    after = {d: keys for d, keys in before.items() if d in config.gateway.domains}
    after |= {domain: [key] for domain, key in reading.keys.items()}
    if after != before:
        pins.save(state_dir, after)
    for domain, reason in reading.failures.items():
        kept = "its earlier pin is kept" if after.get(domain) else "nothing is pinned for it"
        lines.append(
            f"no key read for {domain} ({reason}), {kept}; "
            "start the local server and run this command again"
        )
    return lines


def unreadable_for_others(file: Path) -> str | None:
    """Why the local server's user could not read a file; None if it can."""
    try:
        if not file.stat().st_mode & 0o004:
            return f"{file} is not readable for the local server's user; chmod a+r {file}"
        for directory in file.resolve().parents:
            if not directory.stat().st_mode & 0o001:
                return f"the local server's user cannot enter {directory}; chmod a+x {directory}"
    except OSError as exc:
        return f"{file}: {exc.strerror}; run fedgate attach again"
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
