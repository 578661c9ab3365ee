"""What the scenes of failure and recovery have in common."""

import asyncio
import itertools

from loadtest.stage.users import User

_words = itertools.count(1)
_REPEAT = 0.5


async def talk(one: User, other: User, within: float = 20) -> None:
    """Each says one thing that the other hears."""
    await asyncio.gather(_say(one, other, within), _say(other, one, within))


async def talk_again(one: User, other: User, within: float = 30) -> None:
    """People repeat themselves until they are understood, in both directions."""
    await asyncio.gather(_repeat(one, other, within), _repeat(other, one, within))


async def _say(speaker: User, listener: User, within: float) -> None:
    word = f"word {next(_words)}"
    speaker.send(listener.jid, word)
    await listener.message(word, within)


async def _repeat(speaker: User, listener: User, within: float) -> None:
    word = f"word {next(_words)}"
    async with asyncio.TaskGroup() as group:
        heard = group.create_task(listener.message(word, within))
        while not heard.done():
            speaker.send(listener.jid, word)
            await asyncio.wait([heard], timeout=_REPEAT)
