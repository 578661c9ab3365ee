"""SM: acknowledgements (XEP-0198), by remote servers, by the local one, and by those we dialled."""

import pytest

from loadtest.stage.peers import FRAMING
from tests.integration.rude_peer import ESTABLISHED, FEATURES, RudePeer
from tests.integration.spec_scene import (
    GUEST,
    LOCAL_GUEST,
    MANTUA,
    STRANGER,
    VERONA,
    Scene,
    ending,
    expect,
    local_message,
)

SM = "urn:xmpp:sm:3"
ENABLE, R = f"<enable xmlns='{SM}'/>", f"<r xmlns='{SM}'/>"
RESUME = f"<resume xmlns='{SM}' previd='{{}}' h='0'/>"
TOO_HIGH = "undefined-condition"


def a(h: str) -> str:
    return f"<a xmlns='{SM}' h='{h}'/>"


EARLY = {
    "SM-01 enable": ENABLE,
    "SM-01 request": R,
    "SM-01 answer": a("0"),
    "SM-01 resume": RESUME.format("x"),
}


@pytest.mark.parametrize("case", EARLY)
async def test_before_authentication(scene: Scene, case: str) -> None:
    await scene.refuses("not-authorized", STRANGER, EARLY[case])


WRONG = {
    "SM-05 h is no number": (a("one"), "bad-format"),
    "SM-05 h is negative": (a("-1"), "bad-format"),
    "SM-05 h is 2^32": (a("4294967296"), "bad-format"),
    "SM-05 h has other digits": (a("\u0661"), "bad-format"),
    "SM-05 no h": (f"<a xmlns='{SM}'/>", "bad-format"),
    "SM-06 h is too high": (a("1"), TOO_HIGH),
    "SM-06 h is far too high": (a("4294967295"), TOO_HIGH),
    "SM-12 resumption without h": (f"<resume xmlns='{SM}' previd='x'/>", "bad-format"),
    "SM-12 resumed without having asked": (
        f"<resumed xmlns='{SM}' previd='x' h='0'/>",
        "unsupported-stanza-type",
    ),
    "SM-12 enabled without having been asked": (
        f"<enabled xmlns='{SM}'/>",
        "unsupported-stanza-type",
    ),
}


@pytest.mark.parametrize("where", [GUEST, LOCAL_GUEST])
@pytest.mark.parametrize("case", WRONG)
async def test_nonsense(scene: Scene, case: str, where: str) -> None:
    text, condition = WRONG[case]
    end = await scene.attack(where, text)
    assert (end.condition, end.is_closed) == (condition, True), end
    assert ("handled-count-too-high" in "".join(end.messages)) is (condition == TOO_HIGH)
    await scene.nothing_passed()


ANSWERS = {
    "SM-06 h is too high": (ESTABLISHED, a("5"), TOO_HIGH),
    "SM-05 h is no number": (ESTABLISHED, a("five"), "bad-format"),
    "SM-12 resumed without having been asked": (
        ESTABLISHED,
        f"<resumed xmlns='{SM}' previd='x' h='0'/>",
        "unsupported-stanza-type",
    ),
    "SM-12 enabled twice": (ESTABLISHED, f"<enabled xmlns='{SM}'/>", "unsupported-stanza-type"),
    "SM-01 enabled before authentication": (
        FEATURES,
        f"<enabled xmlns='{SM}'/>",
        "unsupported-stanza-type",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_nonsense_of_a_server_that_we_dialled(
    scene: Scene, rude: RudePeer, case: str
) -> None:
    where, text, condition = ANSWERS[case]
    await rude.is_refused(scene, condition, where, text)


async def test_counting_and_asking(scene: Scene) -> None:
    """SM-02 enabled once, SM-03 counted and asked for, SM-07 answers to no question, SM-08 runs."""
    wire = await scene.connect_raw(VERONA)
    wire.send(ENABLE)
    assert (await wire.receive()).startswith("<enabled ")
    wire.send(ENABLE)
    assert "<unexpected-request" in await wire.receive()
    wire.send(R)
    assert await wire.receive() == a("0")
    for _ in range(10):
        await scene.server.wait_for(scene.say(wire, VERONA))
    for _ in range(5):
        wire.send(R)
    await expect(wire, a("10"))
    wire.send(a("0"))  # nothing of ours is outstanding: no news, no harm
    for _ in range(5):
        wire.send(R)
    for _ in range(5):
        await expect(wire, a("10"))
    wire.send(f"<close xmlns='{FRAMING}'/>")
    assert (await ending(wire)).code == 1000
    await scene.nothing_passed()


async def test_sm_04_a_request_before_it_is_enabled_is_refused(scene: Scene) -> None:
    wire = await scene.connect_raw(VERONA)
    wire.send(R)
    assert "<unexpected-request" in await wire.receive()
    wire.send(ENABLE)
    assert (await wire.receive()).startswith("<enabled ")
    wire.send(f"<close xmlns='{FRAMING}'/>")
    assert (await ending(wire)).code == 1000


@pytest.mark.parametrize(
    "id", ["SM-09-nobodys", "", "x" * 4001], ids=["SM-09 unknown", "SM-09 empty", "SM-12 too long"]
)
async def test_what_cannot_be_resumed_is_refused_and_the_stream_goes_on(
    scene: Scene, id: str
) -> None:
    wire = await scene.connect_raw(VERONA)
    wire.send(RESUME.format(id))
    assert "<item-not-found" in await wire.receive()
    wire.send(ENABLE.replace("/>", " resume='true' max='10'/>"))
    assert (await wire.receive()).startswith("<enabled ")
    wire.send(RESUME.format("x"))  # SM-11
    assert "<unexpected-request" in await wire.receive()
    wire.send(f"<close xmlns='{FRAMING}'/>")
    assert (await ending(wire)).code == 1000


async def test_sm_10_nobody_else_resumes_a_session(scene: Scene) -> None:
    """The name of a resumable session is no key: the domain must be proved as well."""
    theirs = await scene.connect_raw(VERONA)
    theirs.send(ENABLE.replace("/>", " resume='true' max='10'/>"))
    id = (await theirs.receive()).partition(" id='")[2].partition("'")[0]
    assert id
    theirs.end()
    other = await scene.connect_raw(MANTUA)
    other.send(RESUME.format(id))
    assert "<item-not-found" in await other.receive()
    other.end()
    await scene.nothing_passed()


async def test_sm_02_the_local_server_enables_twice(scene: Scene) -> None:
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send(ENABLE)
    assert "<unexpected-request" in await raw.until("</failed>")
    raw.send(local_message("<body>a word</body>", id="SM-03") + R)
    await raw.until(f"<a xmlns='{SM}' h='1'/>")
    await scene.mantua.next_stanza("SM-03")
    raw.close()
