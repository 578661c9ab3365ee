"""Both servers attached by external components (XEP-0114), with the same promises."""

import pytest_asyncio

from loadtest.stage.stage import Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk

# Whatever users can say to each other, and bursts: collected here once more, on this stage.
from tests.integration.test_conversation import *  # noqa: F403
from tests.integration.test_order import *  # noqa: F403


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(component_stage: Stage) -> Stage:
    """What users and tests of other modules take for the stage."""
    return component_stage


async def test_people_talk_through_components(juliet: User, romeo: User) -> None:
    await talk(juliet, romeo)
