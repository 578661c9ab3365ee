"""The benchmark runs and its subjects do the work they are named for."""

import json

import pytest

from loadtest import micro


def test_table_and_json_have_a_row_per_subject_and_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert micro.main(["--count", "64", "--repeats", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == (len(micro.SUBJECTS) + len(micro.PATHS)) * len(micro.BATCHES)
    assert all(row["least"] <= row["median"] <= row["most"] for row in rows)
    assert micro.main(["--count", "64", "--repeats", "1", "--routes", "10"]) == 0
    table, _, journal = capsys.readouterr().out.partition("\n\n")
    assert table.count("\n") == len(rows)
    assert journal.startswith("journal")


@pytest.mark.parametrize("subject", micro.SUBJECTS)
def test_a_subject_handles_every_stanza(subject: str) -> None:
    batch = micro.stanzas(16)
    assert 280 <= len(batch[0]) <= 310
    result = micro.SUBJECTS[subject](batch)()
    if isinstance(result, bytes):
        assert len(result) >= sum(map(len, batch))
    else:
        assert isinstance(result, list) and len(result) == len(batch)
