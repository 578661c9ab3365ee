"""Asks a running coordinator's admin API, by TCP or by unix socket, for the command line."""

import http.client
import json
import socket
from typing import Any

from coordinator.address import is_unix_path, parse_address
from coordinator.config import Config

TIMEOUT = 5.0


class QueryFailed(Exception):
    """The admin API gave no usable answer; one line with the next step."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def fetch(config: Config, noun: str) -> Any:
    """Return the JSON of `/api/<noun>`. Raises `QueryFailed`; waits at most `TIMEOUT` seconds."""
    connection = _connection(config)
    try:
        connection.request("GET", f"/api/{noun}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise QueryFailed(
            f"no answer from the admin API at {config.admin.listen} ({reason}); "
            "is fedgate running, with this configuration?"
        ) from exc
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise QueryFailed(
            f"the admin API at {config.admin.listen} answered {response.status} to /api/{noun}; "
            "see the log of fedgate"
        )
    try:
        return json.loads(body)
    except ValueError as exc:
        raise QueryFailed(
            f"{config.admin.listen} answered no JSON; is admin.listen fedgate's address?"
        ) from exc


def _connection(config: Config) -> http.client.HTTPConnection:
    if is_unix_path(config.admin.listen):
        return _UnixConnection(config.admin.listen)
    host, port = parse_address(config.admin.listen).reachable()
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT)
