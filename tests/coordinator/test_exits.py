from coordinator.exits import MEANINGS, ExitCode


def test_every_code_has_a_meaning_and_its_documented_number() -> None:
    assert set(MEANINGS) == set(ExitCode)
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 78]
