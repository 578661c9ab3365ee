"""Latencies in buckets of 3 % width: small whatever the run lasts, and mergeable."""

from collections.abc import Mapping

# Significant bits of a bucket's bound: 2^-5 is the largest relative error.
_BITS = 6


def bucket_of(microseconds: int) -> int:
    """The lower bound of the bucket that a latency falls into."""
    shift = max(0, microseconds.bit_length() - _BITS)
    return microseconds >> shift << shift


class Histogram:
    """Counts by bucket; latencies go in as seconds and come out as milliseconds."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, seconds: float) -> None:
        bucket = bucket_of(max(0, int(seconds * 1e6)))
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: "Histogram") -> None:
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def percentile(self, share: float) -> float | None:
        """Milliseconds that `share` (0..1) of all latencies do not exceed; None without any."""
        total = len(self)
        if not total:
            return None
        left = share * total
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 1e-9:
                return bucket / 1000
        return max(self.counts) / 1000

    def to_json(self) -> list[list[int]]:
        """Pairs of bucket and count, in order."""
        return [[bucket, self.counts[bucket]] for bucket in sorted(self.counts)]

    @classmethod
    def from_json(cls, pairs: list[list[int]]) -> "Histogram":
        return cls({bucket: count for bucket, count in pairs})
