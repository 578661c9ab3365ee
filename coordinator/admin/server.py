"""The admin HTTP server. Read-only: no browser can be tricked into changing anything."""

import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from coordinator.admin import metrics
from coordinator.admin.guard import why_refused
from coordinator.admin.overview import Overview
from coordinator.admin.page import CONTENT_SECURITY_POLICY, PAGE
from coordinator.store import StoreUnavailable

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminServer:
    """Serves an `Overview` on listening sockets that the caller owns."""

    def __init__(self, overview: Overview, sockets: list[socket.socket]) -> None:
        self._overview = overview
        self._sockets = sockets
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Answer from now on. Raises OSError."""
        self._runner = web.AppRunner(
            application(self._overview), access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        await self._runner.setup()
        for sock in self._sockets:
            await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        """Finish what is being answered and stop."""
        if self._runner is not None:
            await self._runner.cleanup()


def application(overview: Overview) -> web.Application:
    """The routes of the admin surface."""

    async def livez(request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def readyz(request: web.Request) -> web.Response:
        ready = overview.is_ready()
        answer = {"ready": ready, "degraded": overview.degraded()}
        return web.json_response(answer, status=200 if ready else 503)

    async def prometheus(request: web.Request) -> web.Response:
        headers = {"Content-Type": metrics.CONTENT_TYPE}
        return web.Response(text=metrics.render(overview), headers=headers)

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def routes(request: web.Request) -> web.Response:
        try:
            return web.json_response(await overview.routes())
        except StoreUnavailable as exc:
            return web.json_response({"error": str(exc)}, status=503)

    async def sessions(request: web.Request) -> web.Response:
        limit = request.query.get("limit", "0")
        if not (limit.isdecimal() and limit.isascii() and len(limit) < 8):
            return web.json_response({"error": "limit is a number"}, status=400)
        return web.json_response(await overview.sessions(int(limit)))

    def shown(question: Callable[[], object]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            return web.json_response(question())

        return answer

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = why_refused(request, overview.names())
        if reason is not None:
            raise web.HTTPForbidden(text=f"{reason}\n")
        return await handler(request)

    app = web.Application(middlewares=[_with_headers, guarded])
    app.add_routes(
        [
            web.get("/", page),
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", prometheus),
            web.get("/api/routes", routes),
            web.get("/api/status", shown(overview.status)),
            web.get("/api/workers", shown(overview.workers)),
            web.get("/api/sessions", sessions),
            web.get("/api/ledger", shown(overview.ledger)),
            web.get("/api/errors", shown(overview.errors)),
            web.get("/api/config", shown(overview.config)),
        ]
    )
    return app


@web.middleware
async def _with_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        refusal.headers.update(_HEADERS)
        raise
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response
