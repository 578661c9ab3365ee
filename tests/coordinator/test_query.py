import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.config import Admin, Config
from coordinator.query import QueryFailed, fetch


class AdminApi(http.server.BaseHTTPRequestHandler):
    """Answers /api/workers, sends no JSON for /api/routes, fails for all else."""

    def do_GET(self) -> None:
        bodies = {"/api/workers": json.dumps([{"id": "gw1/w1"}]), "/api/routes": "<html>"}
        body = bodies.get(self.path, "").encode()
        self.send_response(200 if body else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "peer"  # a unix peer has no address

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class UnixServer(socketserver.UnixStreamServer):
    allow_reuse_address = False


@pytest.fixture(params=["tcp", "unix"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Config]:
    server: socketserver.BaseServer
    if request.param == "unix":
        listen = str(tmp_path / "admin.sock")
        server = UnixServer(listen, AdminApi)
    else:
        server = http.server.HTTPServer(("127.0.0.1", 0), AdminApi)
        listen = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Config(admin=Admin(listen=listen))
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_answer_is_the_json_of_the_noun(config: Config) -> None:
    assert fetch(config, "workers") == [{"id": "gw1/w1"}]


def test_an_error_of_the_api_is_one_line(config: Config) -> None:
    with pytest.raises(QueryFailed, match="answered 503 to /api/ledger; see the log"):
        fetch(config, "ledger")


def test_another_service_on_the_port_is_recognised(config: Config) -> None:
    with pytest.raises(QueryFailed, match=r"no JSON; is admin\.listen fedgate's address"):
        fetch(config, "routes")


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "/none/admin.sock"])
def test_a_gateway_that_is_down_is_one_line_with_the_next_step(listen: str) -> None:
    with pytest.raises(
        QueryFailed, match=r"no answer from the admin API at .*; is fedgate running"
    ):
        fetch(Config(admin=Admin(listen=listen)), "status")
