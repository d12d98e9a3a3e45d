"""Local paths and paths in buckets, in one type."""

import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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


class Found(NamedTuple):
    """A file of a folder of data.

    Attributes:
        name: Its path below the folder.
        size: Its size in bytes; -1 if it cannot be known.
    """

    name: str
    size: int


def walk(folder: epath.Path) -> tuple[list[Found], list[str]]:
    """List all regular files in a folder and its sub-folders, each folder once.

    Links are followed, but not to a folder that holds `folder` or that was walked already, so that
    a loop of links ends.

    Returns:
        The files, and the names of the links to folders that were not followed.

    Raises:
        UsageError: A folder cannot be listed.
    """
    if is_remote(folder):  # buckets have no links
        paths = list(files(folder))
        return [Found(p.relative_to(folder).as_posix(), p.stat().length) for p in paths], []
    root = os.path.realpath(folder)
    found: list[Found] = []
    not_followed: list[str] = []
    seen: set[str] = set()
    folders, links = [""], list[str]()
    while folders or links:
        name = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(os.path.join(root, name))
        if real in seen or (name and os.path.commonpath([root, real]) == real):
            not_followed.append(name)
            continue
        seen.add(real)
        here: list[Found] = []
        start = name and f"{name}/"
        inside: list[tuple[str, bool]] = []
        try:
            with os.scandir(real) as entries:
                for entry in entries:
                    path = start + entry.name
                    try:
                        status = entry.stat()
                    except OSError:  # a link to nothing or to itself
                        here.append(Found(path, -1))
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        inside.append((path, entry.is_symlink()))
                    elif stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                        here.append(Found(path, status.st_size))
        except OSError as error:
            raise UsageError(f"{folder / name} cannot be listed: {error.strerror}") from error
        found += sorted(here)
        for path, is_link in sorted(inside):
            (links if is_link else folders).append(path)
    return found, sorted(not_followed)
