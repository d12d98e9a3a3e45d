"""Local paths and paths in buckets, in one type."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from genjax.types import UsageError


def is_remote(path: str | Path | epath.Path) -> bool:
    """Return whether a path is in a bucket, such as `gs://BUCKET/FOLDER`."""
    return "://" in os.fspath(path)


def to_path(path: str | Path | epath.Path) -> epath.Path:
    """Convert to a path, with `~` expanded.

    Raises:
        UsageError: The path is in a bucket, and the package that reads buckets is not installed.
    """
    if str(path).startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        raise UsageError(f"{path} is in a bucket: pip install gcsfs")
    return epath.Path(path) if is_remote(path) else epath.Path(path).expanduser()


def files(folder: epath.Path) -> Iterator[epath.Path]:
    """Iterate over all files in a folder and its sub-folders."""
    for path in folder.iterdir():  # not by epath's walk, which loses the name of a bucket
        yield from files(path) if path.is_dir() else [path]
