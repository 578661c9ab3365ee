"""Every number is counted once; doubles and strangers are counted apart."""

from loadtest.bench.tally import Tally


async def test_all_numbers_complete_the_tally() -> None:
    tally = Tally(3)
    tally.add([b"00000002", b"00000000"])
    assert not tally.completed.is_set()
    tally.add([b"00000001"])
    assert tally.completed.is_set()
    assert all(tally.times)


async def test_doubles_and_strangers_do_not_count_as_arrived() -> None:
    tally = Tally(2)
    tally.add([b"0", b"0", b"7"])
    assert (tally.arrived, tally.doubled, tally.strange) == (1, 1, 1)
