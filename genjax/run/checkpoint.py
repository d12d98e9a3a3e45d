"""Checkpoints whose files are verified: Orbax's, each with a label and a list of digests.

Orbax restores a checkpoint with a flipped byte without an error, as garbage, and does not notice
when it writes a file too few. Therefore the first process adds a label, with the run and the step,
and the SHA-256 of every file, and only then gives the folder its name. A folder is a checkpoint if
its name is a step, its files are those of the list and all that a restore needs, and its label is
of this run and step. No other is ever restored.

Several processes save and restore together, on storage that all of them see. Only the first one
verifies, writes digests and moves damaged checkpoints aside, and tells the others.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from genjax.data.paths import files, is_copied, is_remote, local_copy, uploaded
from genjax.data.processes import barrier, is_first, run_on_first
from genjax.steps.optim import UnknownState
from genjax.types import UsageError

log = logging.getLogger("genjax")

DIGESTS, LABEL = "sha256.json", "label.json"
# The files without which nothing can be restored.
NEEDED = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", LABEL)
# A state is at most this many times larger than its files, or else smaller than this: more bytes
# than that are not in them, and are not allocated.
MOST_UNPACKED, SMALL = 1000, 2**26
# What may happen to a disk, as the system says it.
SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT)
# The end of the name of a folder that is being written or deleted.
UNFINISHED = ".unfinished"
# Times that such a folder is deleted, while others delete in it as well.
SWEEPS = 100
# Orbax looks for files by patterns that begin with the path, and TensorStore takes a backslash for
# a slash and wants UTF-8: in such a path files would be lost, or those of another run be found.
MISREAD = r"[*?\[\]\\\ud800-\udfff]|^/(.*/)?gs:/"


class SaveError(OSError):
    """The run could not be written or its data not read; the checkpoints before are untouched."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", ser_json_inf_nan="constants"))
class Label:
    """What a checkpoint says of itself.

    Attributes:
        run: The id of the run.
        step: The step of the state.
        metrics: Metrics of the state; empty if they were not measured.
    """

    run: str
    step: int
    metrics: dict[str, float]


_label, _digest_list = TypeAdapter(Label), TypeAdapter(dict[str, str])


def write_atomically(path: Path | epath.Path, data: bytes) -> None:
    """Write a file such that it exists whole or not at all, even after a crash."""
    if is_remote(path):  # an object in a bucket appears only once it is complete
        epath.Path(path).write_bytes(data)
        return
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # another process has its own
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # a full disk names no file, and nobody knows `part`
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        part.unlink(missing_ok=True)


def _digests(folder: Path | epath.Path) -> dict[str, str]:
    """Return the SHA-256 of each file in `folder`, by its path relative to it."""
    digests, folder = {}, epath.Path(folder)
    for path in sorted(files(folder)):
        if path.name != DIGESTS:
            with path.open("rb") as file:
                name = path.relative_to(folder).as_posix()
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def find_damage(folder: Path | epath.Path, run: str, in_full: bool = True) -> str | None:
    """Describe why a folder is no sound checkpoint of a run; None if it is one.

    Unless `in_full`, only its label and its list of digests are read.
    """
    try:
        wanted = dict.fromkeys(NEEDED) | _digest_list.validate_json((folder / DIGESTS).read_bytes())
        found = _digests(folder) if in_full else wanted
    except FileNotFoundError:
        return f"its save did not finish: it has no {DIGESTS}"
    except (OSError, ValueError) as error:
        return f"{DIGESTS} cannot be read ({str(error).splitlines()[0]})"
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not part of it" for name in found if name not in wanted]
    problems += [f"{n} is damaged" for n in wanted if n in found and found[n] != wanted[n]]
    if problems:
        return ", ".join(problems)
    try:
        label = _read_label(folder)
    except ValueError:
        return f"{LABEL} is not one"
    if label.run != run:
        return f"it is of another run, {label.run!r}"
    return None if folder.name == _name(label.step) else f"it is of step {label.step}"


def _read_label(folder: Path | epath.Path) -> Label:
    return _label.validate_json((folder / LABEL).read_bytes())


def _name(step: int) -> str:
    """Return the name of a step's folder."""
    return f"{step:08d}"


def _is_name(name: str) -> bool:
    return re.fullmatch("[0-9]{8,18}", name) is not None and _name(int(name)) == name


class Checkpoints:
    """The checkpoints of one run: the latest few, and the best by a metric.

    Args:
        folder: The folder that holds them; each is a folder named by its step.
        run: The id of the run.
        keep: Number of latest checkpoints that are kept.
        best: Name of the metric that decides which one is the best; lower is better.
        since: The step up to which the metric was that of other data.
        writable: Whether checkpoints will be written. If so, all are verified now, damaged ones are
            moved into `damaged/` beside the folder, and unfinished ones are deleted. If not,
            `find` verifies the one that is wanted.

    Raises:
        UsageError: Orbax would misread the path, or no checkpoint is good, though there are damaged
            ones or `writable` is false.
    """

    def __init__(
        self,
        folder: Path | epath.Path,
        run: str,
        keep: int,
        best: str,
        writable: bool,
        since: int = 0,
    ):
        # Orbax wants an absolute path; epath's `resolve` would spoil the path of a bucket.
        self.folder = epath.Path(folder) if is_remote(folder) else epath.Path(folder).resolve()
        if misread := re.search(MISREAD, os.fspath(self.folder)):
            raise UsageError(
                f"run {self.folder.parent}: no checkpoints can be kept where a path has "
                f"{misread[0][-4:]!r}; wanted another name"
            )
        self._run, self._keep, self._best, self._writable = run, keep, best, writable
        self.since = since
        # The metrics of each good checkpoint, by its step; good at first sight if not writable.
        self._good: dict[int, dict[str, float]] = dict(run_on_first(self._check))
        aside = self.folder.parent / "damaged"
        if not self._good and (not writable or _holds_whole_ones(aside)):
            raise self._nothing_good()
        if writable and is_first() and not is_remote(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def _nothing_good(self) -> UsageError:
        aside = self.folder.parent / "damaged"
        where = f" (damaged ones are in {aside})" if aside.is_dir() else ""
        return UsageError(f"{self.folder} holds no good checkpoint{where}")

    def _check(self) -> list[tuple[int, dict[str, float]]]:
        """Return steps and metrics of the good checkpoints, ascending; warn of the others."""
        good = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if not _is_name(path.name):
                if UNFINISHED in path.name:
                    if self._writable:
                        _sweep(path)
                else:
                    log.warning("%s is not a checkpoint: ignored", path)
            elif problem := find_damage(path, self._run, in_full=self._writable):
                log.warning("checkpoint %s cannot be used: %s", path, problem)
                if self._writable:
                    _move_aside(path, self.folder.parent / "damaged")
            else:
                label = _read_label(path)
                good.append((label.step, label.metrics))
        return good

    @property
    def steps(self) -> list[int]:
        """Steps of the good checkpoints, ascending."""
        return sorted(self._good)

    @property
    def latest(self) -> int | None:
        """Step of the latest good checkpoint; None if there is none."""
        return max(self._good, default=None)

    @property
    def best(self) -> int | None:
        """Step of the best good checkpoint, or the latest if none has the metric."""
        scores = {step: metrics.get(self._best, math.nan) for step, metrics in self._good.items()}
        measured = [
            step for step, score in scores.items() if math.isfinite(score) and step > self.since
        ]
        return min(measured, key=lambda step: (scores[step], step), default=self.latest)

    def metrics(self, step: int) -> dict[str, float]:
        """Return the metrics of a good checkpoint."""
        return self._good[step]

    def find(self, wanted: str | int) -> int:
        """Return the step of a checkpoint, after verifying all of it.

        Args:
            wanted: `best`, `latest`, or a step. If the best or latest is damaged, it is the next.

        Raises:
            UsageError: There is no such good checkpoint.
        """
        while True:
            named = {"best": self.best, "latest": self.latest}
            step = named.get(wanted) if isinstance(wanted, str) else wanted
            if step not in self._good:
                steps = ", ".join(map(str, self.steps))
                raise UsageError(
                    f"{self.folder.parent} has no good checkpoint {wanted}: it has {steps}; best "
                    f"is {self.best}, latest {self.latest}"
                )
            path = self.folder / _name(step)
            problem = run_on_first(lambda: find_damage(path, self._run))  # noqa: B023
            if problem is None:
                return step
            log.warning("checkpoint %s cannot be used: %s", path, problem)
            del self._good[step]
            if not self._good:
                raise self._nothing_good()

    def save(self, step: int, state: Any, metrics: dict[str, float] | None) -> None:
        """Save a state, and delete the oldest checkpoints.

        Args:
            step: The step of the state.
            state: The state, as `Steps.to_save` gives it.
            metrics: Metrics by which the best is chosen; None if they were not measured.

        Raises:
            SaveError: The state could not be written, for instance because the disk is full.
            JaxRuntimeError: Another process of several is gone.
        """
        path = self.folder / _name(step)
        gone = not is_remote(path) and not self.folder.is_dir()
        # A bucket cannot rename: there the digests, which come last, are what makes it whole.
        part = path if is_remote(path) else path.with_name(path.name + UNFINISHED)
        try:
            if gone:  # Orbax would make a new one, without a config
                raise OSError("the run folder is gone")
            with uploaded(part) as folder:
                self._checkpointer.save(folder, args=ocp.args.StandardSave(state), force=True)
            if is_first():
                label = Label(self._run, step, metrics or {})
                write_atomically(part / LABEL, _label.dump_json(label))
                digests = _digests(part)
                if missing := [name for name in NEEDED if name not in digests]:
                    raise OSError(f"{', '.join(missing)} was not written")
                write_atomically(part / DIGESTS, json.dumps(digests, indent=1).encode())
                if part != path:
                    part.rename(path)
            barrier(f"step {step} saved")
        except Exception as error:  # Orbax and TensorStore raise many kinds
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                raise
            raise self._failure(f"could not save step {step} in {self.folder}", error) from error
        self._good[step] = metrics or {}
        for old in set(self.steps[: -self._keep]) - {self.best}:
            del self._good[old]
            if is_first():
                _delete(self.folder / _name(old))

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Raise the system's errors inside the context as a `SaveError` that says what is left."""
        try:
            yield
        except SaveError:
            raise
        except OSError as error:
            where = error.filename or self.folder.parent
            raise self._failure(f"could not go on: {where}", error) from error

    def _failure(self, what: str, error: Exception) -> SaveError:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        known = [os.strerror(number) for number in SYSTEM_ERRORS]
        # TensorStore hides what the system said between four paths.
        reason = next((each for each in known if each in text), text.splitlines()[0])
        there = [step for step in self.steps if (self.folder / _name(step)).is_dir()]
        if not there:
            return SaveError(f"{what}: {reason}; there is no earlier checkpoint")
        return SaveError(
            f"{what}: {reason}; the last good one is step {there[-1]}; once that is mended, to go "
            f"on: genjax resume {self.folder.parent}"
        )

    def restore(self, step: int, like: Any) -> Any:
        """Return the state saved at `step`, in the structure, types and shardings of `like`.

        Raises:
            UsageError: The saved state has another structure or other shapes, or its files are too
                small for these.
        """
        path = self.folder / _name(step)
        if is_copied(path):
            with local_copy(path) as copy:
                return self._restore(copy, step, like)
        return self._restore(path, step, like)

    def _restore(self, path: epath.Path, step: int, like: Any) -> Any:
        wanted = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
        stored = sum(file.stat().length for file in files(path))
        if wanted > max(MOST_UNPACKED * stored, SMALL):
            raise UsageError(
                f"checkpoint {step} in {self.folder} has {stored:,} bytes, "
                f"a state of its config.json {wanted:,}"
            )
        try:
            tree = self._checkpointer.metadata(path).item_metadata.tree
            like = _with_unknown(like, tree)
            found, shapes = (sorted(x.shape for x in jax.tree.leaves(y)) for y in (tree, like))
            if found != shapes:  # Orbax would first allocate what it is asked for
                raise ValueError("other shapes")
            return self._checkpointer.restore(path, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"checkpoint {step} in {self.folder} is of another version of genjax, or its "
                "config.json is of another run: its state has another structure"
            ) from error

    def close(self) -> None:
        """Release the folder."""
        self._checkpointer.close()


def _with_unknown(like: Any, tree: Any) -> Any:
    """Return `like` with what a checkpoint has in place of optimizer states that are not known."""
    sharding = jax.tree.leaves(like)[0].sharding

    def known(path: Any, part: Any) -> Any:
        if not isinstance(part, UnknownState):
            return part
        found = tree
        for name in jax.tree_util.keystr(path, simple=True, separator=".").split("."):
            found = found[name]
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), found
        )

    return jax.tree_util.tree_map_with_path(
        known, like, is_leaf=lambda part: isinstance(part, UnknownState)
    )


def _holds_whole_ones(aside: epath.Path) -> bool:
    """Return whether a checkpoint that once was whole is among the damaged ones."""
    return aside.is_dir() and any((path / DIGESTS).exists() for path in aside.iterdir())


def _move_aside(path: epath.Path, aside: epath.Path) -> None:
    aside.mkdir(exist_ok=True)
    number = 0
    while (target := aside / f"{path.name}-{number}").exists():
        number += 1
    path.rename(target)


def _sweep(path: epath.Path) -> None:
    """Delete what a save left unfinished; writers of one that just failed may be doing so too."""
    problem: OSError | None = None
    for _ in range(SWEEPS):
        if not path.exists():
            return
        try:
            path.rmtree()
        except OSError as error:
            problem = error
            if not isinstance(error, FileNotFoundError):  # else another was first
                break
    if path.exists():
        log.warning("the unfinished %s cannot be deleted: %s", path, problem)


def _delete(path: epath.Path) -> None:
    """Delete a checkpoint such that what is left, should that be cut short, is not damage."""
    try:
        if is_remote(path):
            (path / DIGESTS).unlink()
        else:
            path = path.rename(path.with_name(path.name + UNFINISHED))
        path.rmtree()
    except OSError as error:
        log.warning("an old checkpoint cannot be deleted: %s", error)
