"""Stand-ins for the file systems of a hub and of buckets, in memory."""

from typing import ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from genjax.data import paths


class Hub(MemoryFileSystem):
    """Files of `hf://`, as fsspec knows them: none is appended to, folders need not be made."""

    protocol = "hf"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix(f"{cls.protocol}://"))

    def _open(self, path, mode="rb", **options):
        if mode not in ("rb", "wb"):
            raise NotImplementedError(mode)
        if mode == "wb":
            self.makedirs(self._parent(path), exist_ok=True)
        return super()._open(path, mode, **options)


class Buckets(Hub):
    """Files of `s3://`."""

    protocol = "s3"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]


def start(monkeypatch):
    """Put the stand-ins in the places of a hub and of buckets."""
    for system in (Hub, Buckets):
        fsspec.register_implementation(system.protocol, system, clobber=True)
        monkeypatch.setitem(paths.PACKAGES, system.protocol, "fsspec")
