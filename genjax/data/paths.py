"""Local paths and paths in buckets and hubs, in one type."""

import contextlib
import importlib.util
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from etils import epath

from genjax.types import UsageError

# The package that reads and writes paths of each scheme, through fsspec.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "hf": "huggingface_hub"}
# The scheme of buckets that TensorStore writes checkpoints to, for any number of processes; to
# others they go through a local copy. And that of hubs, where each file written is a commit.
BUCKET, HUB = "gs", "hf"


def is_remote(path: str | Path | epath.Path) -> bool:
    """Return whether a path is in a bucket or hub, such as `gs://BUCKET/FOLDER`."""
    return "://" in os.fspath(path)


def is_in_hub(path: str | Path | epath.Path) -> bool:
    """Return whether a path is in a hub, `hf://OWNER/REPOSITORY/...`."""
    return os.fspath(path).startswith(f"{HUB}://")


def is_copied(path: str | Path | epath.Path) -> bool:
    """Return whether checkpoints at a path are written and read through a local copy."""
    return is_remote(path) and not os.fspath(path).startswith(f"{BUCKET}://")


def to_path(path: str | Path | epath.Path) -> epath.Path:
    """Convert to a path, with `~` expanded.

    Raises:
        UsageError: The path is of an unknown scheme, or the package that reads paths of this scheme
            is not installed.
    """
    if not is_remote(path):
        return epath.Path(path).expanduser()
    scheme = os.fspath(path).partition("://")[0]
    if scheme not in PACKAGES:
        known = ", ".join(f"{each}://" for each in PACKAGES)
        raise UsageError(f"{path}: wanted a local path, or one of {known}")
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise UsageError(f"{path} needs another package: pip install {PACKAGES[scheme]}")
    return epath.Path(path)


@contextlib.contextmanager
def local_copy(path: epath.Path) -> Iterator[epath.Path]:
    """Give a local path with the content of a file or folder: its own, or that of a copy."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = epath.Path(scratch) / path.name
        for file in files(path) if path.is_dir() else [path]:
            target = copy / file.relative_to(path) if file != path else copy
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(file, target)
        yield copy


@contextlib.contextmanager
def uploaded(path: epath.Path) -> Iterator[epath.Path]:
    """Give a path for a new folder, whose files are at `path` after the context."""
    if not is_copied(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = epath.Path(scratch) / path.name
        yield copy
        for file in files(copy):
            _copy(file, path / file.relative_to(copy))


def _copy(file: epath.Path, target: epath.Path) -> None:
    with file.open("rb") as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


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
    if is_remote(folder):  # there are no links
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
