"""Paths of this machine and of buckets, in one type."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from genjax.types import UsageError


def is_remote(path: str | Path | epath.Path) -> bool:
    """Whether a path is of a bucket, such as `gs://BUCKET/FOLDER`."""
    return "://" in os.fspath(path)


def to_path(path: str | Path | epath.Path) -> epath.Path:
    """The path, `~` expanded.

    Raises:
        UsageError: It is of a bucket, and what reads those is not installed.
    """
    if str(path).startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        raise UsageError(f"{path} is in a bucket: pip install gcsfs")
    return epath.Path(path) if is_remote(path) else epath.Path(path).expanduser()


def files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files in a folder, however deep."""
    for path in folder.iterdir():  # epath's walk loses the name of a bucket
        yield from files(path) if path.is_dir() else [path]
