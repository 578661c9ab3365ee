"""The sink behind a real server: an external component (XEP-0114) that answers.

Any domain may write to it; what it answers, the server delivers, through its gateway or natively.
"""

import asyncio

from coordinator.config import Limits
from loadtest.sink.behaviour import Behaviour
from loadtest.stage.component import Component
from workers.xmpp.component import ComponentParser
from workers.xmpp.errors import RemoteProtocolError
from workers.xmpp.namespaces import COMPONENT, SERVER, STREAM
from workers.xmpp.stanza import Stanza

_HEADER = f"<stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAM}' id='x'>".encode()
_OURS = f" xmlns='{SERVER}'".encode()
_CONNECT_TIMEOUT = 30.0


class ComponentSink:
    """Connects again whenever the connection is lost; `start` first, `stop` last."""

    def __init__(
        self, domain: str, behaviour: Behaviour, address: tuple[str, int], secret: str
    ) -> None:
        self.behaviour = behaviour
        host, port = address
        self._component = Component(domain, host, secret, self._receive, self._on_lost, port)
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._renew_parser()

    async def start(self) -> None:
        """Raises `StageError` when the server does not let it in for a while."""
        await self._component.connect(_CONNECT_TIMEOUT)

    def stop(self) -> None:
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
        self._component.close()

    def _receive(self, data: bytes) -> None:
        stanzas = []
        for item in self._parser.feed(data):
            if isinstance(item, RemoteProtocolError):
                raise item  # asyncio ends the connection, and a new one begins
            # What breaks our parser's limits has no answer: its sender's count shows it.
            if isinstance(item, Stanza):
                stanzas.append(item)
        answers = [answer for stanza in stanzas for answer in self.behaviour.answer(stanza)]
        if answers and self._component.is_open:
            # In the stream's own namespace, which need not be declared again.
            self._component.write(b"".join(each.data.replace(_OURS, b"", 1) for each in answers))

    def _on_lost(self) -> None:
        if not self._is_stopping:
            self._renew_parser()
            self._task = asyncio.create_task(self.start())

    def _renew_parser(self) -> None:
        """The component has read the real stream header already."""
        self._parser = ComponentParser(Limits(), authenticated=True)
        self._parser.feed(_HEADER)
