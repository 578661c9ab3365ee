"""Remote domains and what they talk to."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.load.certificates import LoadAuthority
from loadtest.load.fleet import Fleet
from tests.loadtest.load.endpoint import Endpoint


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LoadAuthority:
    return LoadAuthority(tmp_path_factory.mktemp("ca"))


@pytest_asyncio.fixture
async def endpoint(authority: LoadAuthority) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(authority)
    await endpoint.start()
    yield endpoint
    await endpoint.stop()


@pytest_asyncio.fixture
async def fleet(authority: LoadAuthority, endpoint: Endpoint) -> AsyncIterator[Fleet]:
    fleet = Fleet(endpoint.settings(), authority, "run")
    await fleet.start()
    yield fleet
    await fleet.stop()
