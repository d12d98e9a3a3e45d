"""The identity of data: a digest of their content, and what came, went or changed since another."""

import gzip
import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from genjax.data.names import some


def digest_of(contents: Mapping[str, str]) -> str:
    """Return the digest of what `Source.contents` says, 16 hexadecimal digits."""
    lines = json.dumps(sorted(contents.items())).encode()
    return hashlib.sha256(lines).hexdigest()[:16]


def by_digest(names: Iterable[str], most: int) -> set[str]:
    """Choose up to `most` names, always the same ones of a set."""
    return set(heapq.nsmallest(most, names, lambda name: fingerprint([repr(name).encode()])))


def fingerprint(parts: Iterable[bytes | memoryview]) -> str:
    """Return 16 hexadecimal digits for the content of a file or image."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()


class Change(NamedTuple):
    """The names of what came, went and changed between two states of a data set."""

    came: Sequence[str]
    went: Sequence[str]
    changed: Sequence[str]

    def __str__(self) -> str:
        parts = (
            (self.came, "came"),
            (self.went, "went"),
            (self.changed, "changed in content or class"),
        )
        return ", ".join(
            f"{len(names):,} {what}" + (f" ({some(names)})" if names else "")
            for names, what in parts
        )


def change(before: Mapping[str, str], now: Mapping[str, str]) -> Change | None:
    """Compare two results of `Source.contents`; None if nothing is known to have changed.

    Where only one of them has read a file, its size and class count alone.
    """

    def differ(a: str, b: str) -> bool:
        (known_a, _, read_a), (known_b, _, read_b) = a.rpartition(" "), b.rpartition(" ")
        return known_a != known_b or bool(read_a and read_b and read_a != read_b)

    found = Change(
        sorted(now.keys() - before.keys()),
        sorted(before.keys() - now.keys()),
        sorted(name for name in before.keys() & now.keys() if differ(before[name], now[name])),
    )
    return found if any(found) else None


def pack(contents: Mapping[str, str]) -> bytes:
    """Write what `Source.contents` says as a file, `unpack` its inverse."""
    return gzip.compress(json.dumps(contents, indent=0).encode(), mtime=0)


def unpack(data: bytes) -> dict[str, str]:
    """Read what `pack` wrote."""
    contents: dict[str, str] = json.loads(gzip.decompress(data))
    return contents
