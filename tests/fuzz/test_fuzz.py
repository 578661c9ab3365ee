"""Every target with hypothesis: its seeds cut, doubled, swapped and spoilt."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CHECKS, SEEDS

EXAMPLES = 300


@pytest.mark.parametrize("name", CHECKS)
def test_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        for end in {*range(0, len(seed), 7), len(seed)}:
            CHECKS[name](seed[:end])


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(data=st.data())
def test_variations(name: str, data: st.DataObject) -> None:
    CHECKS[name](data.draw(variations(name)))


def variations(name: str) -> st.SearchStrategy[bytes]:
    """Pieces of the seeds and of nothing known, one after the other."""
    seeds = SEEDS[name]
    tokens = sorted({token for seed in seeds for token in _tokens(seed)})
    piece = st.one_of(
        st.sampled_from(seeds),
        st.sampled_from(tokens),
        st.tuples(st.sampled_from(seeds), st.integers(0, 400), st.integers(0, 60)).map(
            lambda cut: cut[0][cut[1] : cut[1] + cut[2]]
        ),
        st.binary(max_size=6),
        st.text("<>/'\"=&;:!?-[]} \n\u0220\u0436\x1e", max_size=6).map(str.encode),
    )
    joined = st.lists(piece, max_size=10).map(b"".join)
    spoilt = st.tuples(st.sampled_from(seeds), st.integers(0, 600), st.integers(0, 8), joined).map(
        lambda part: part[0][: part[1]] + part[3][:40] + part[0][part[1] + part[2] :]
    )
    return st.one_of(spoilt, joined)


def _tokens(seed: bytes) -> list[bytes]:
    """What a seed is made of: up to each `>`, or eight bytes at a time."""
    if seed.count(b">") > 1:
        return [part + b">" for part in seed.split(b">")]
    return [seed[at : at + 8] for at in range(0, len(seed), 8)]
