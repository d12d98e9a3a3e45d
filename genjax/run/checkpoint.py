"""Checkpoints whose files are verified: Orbax's, each with a list of digests.

Orbax commits a checkpoint atomically, but restores one with a flipped byte without an error, as
garbage. Therefore, once a checkpoint is committed, the SHA-256 of each of its files is written into
it. If a checkpoint has no such list, its save did not finish; if its files differ from the list, it
is damaged. In both cases it is never restored.

Several processes save and restore together, on storage that all of them see. Only the first one
verifies, writes digests and moves damaged checkpoints aside, and tells the others.
"""

import errno
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from genjax.data.paths import files, is_remote
from genjax.data.processes import barrier, is_first, run_on_first
from genjax.types import UsageError

log = logging.getLogger("genjax")

DIGESTS = "sha256.json"


class SaveError(OSError):
    """A checkpoint could not be written; the earlier ones are untouched."""


def write_atomically(path: Path | epath.Path, data: bytes) -> None:
    """Write a file such that it exists whole or not at all, even after a crash."""
    if is_remote(path):  # an object in a bucket appears only once it is complete
        epath.Path(path).write_bytes(data)
        return
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
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


def find_damage(folder: Path | epath.Path) -> str | None:
    """Describe what is wrong with a checkpoint's files; None if they match their digests."""
    try:
        wanted = json.loads((folder / DIGESTS).read_bytes())
        found = _digests(folder)
        problems = [f"{name} is missing" for name in wanted if name not in found]
        problems += [f"{name} is not part of it" for name in found if name not in wanted]
        problems += [f"{n} is damaged" for n in wanted if n in found and found[n] != wanted[n]]
    except FileNotFoundError:
        return "its save did not finish"
    except (OSError, ValueError, TypeError) as error:
        return f"{DIGESTS} cannot be read ({error})"
    return ", ".join(problems) or None


class Checkpoints:
    """The checkpoints of one run: the latest few, and the best by a metric.

    Args:
        folder: The folder that holds them; each is a folder named by its step.
        keep: Number of latest checkpoints that are kept.
        best: Name of the metric that decides which one is the best; lower is better.
        writable: Whether checkpoints will be written. If so, damaged ones are moved into
            `damaged/` beside the folder, and Orbax removes unfinished ones.

    Raises:
        UsageError: No checkpoint is good, though there are damaged ones or `writable` is false.
    """

    def __init__(self, folder: Path | epath.Path, keep: int, best: str, writable: bool):
        self.folder, self._writable = epath.Path(folder), writable
        self._good = set(run_on_first(self._check))
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[best],
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(keep),
                    checkpoint_managers.BestN(
                        get_metric_fn=lambda metrics: metrics[best],
                        reverse=True,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            step_format_fixed_length=8,
            enable_async_checkpointing=False,
            read_only=not writable,
        )
        if not self._good:
            aside = self.folder.parent / "damaged"
            if not writable or list(aside.glob(f"*/{DIGESTS}")):
                raise UsageError(f"{folder} holds no good checkpoint (damaged ones are in {aside})")
        # Orbax wants an absolute path; epath's `resolve` would spoil the path of a bucket.
        absolute = self.folder if is_remote(self.folder) else self.folder.resolve()
        self._manager = ocp.CheckpointManager(absolute, options=options)

    def _check(self) -> list[int]:
        """Verify all checkpoints, and return the steps of the good ones, ascending."""
        good = []
        candidates = self.folder.iterdir() if self.folder.is_dir() else ()
        for path in sorted(p for p in candidates if p.is_dir() and p.name.isdigit()):
            problem = find_damage(path)
            if problem is None:
                good.append(int(path.name))
                continue
            log.warning("checkpoint %s cannot be used: %s", path, problem)
            if self._writable:
                aside = self.folder.parent / "damaged"
                aside.mkdir(exist_ok=True)
                number = len(list(aside.iterdir()))
                path.rename(aside / f"{path.name}-{number}")
        return good

    @property
    def steps(self) -> list[int]:
        """Steps of the good checkpoints, ascending."""
        return sorted(self._good & set(self._manager.all_steps()))

    @property
    def latest(self) -> int | None:
        """Step of the latest good checkpoint; None if there is none."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step of the best good checkpoint, or the latest if none has the metric."""
        best = self._manager.best_step()
        return best if best in self._good else self.latest

    def save(self, step: int, state: Any, metrics: dict[str, float] | None) -> None:
        """Save a state, and delete the oldest checkpoints.

        Args:
            step: The step of the state.
            state: The state, as `Steps.to_save` gives it.
            metrics: Metrics by which the best is chosen; None if they were not measured.

        Raises:
            SaveError: The state could not be written, for instance because the disk is full.
        """
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)
            path = self.folder / f"{step:08d}"
            if is_first():
                write_atomically(path / DIGESTS, json.dumps(_digests(path), indent=1).encode())
            barrier(f"step {step} saved")
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            full = os.strerror(errno.ENOSPC)  # TensorStore hides this between four paths
            reason = full if full in reason else reason
            last = self.latest
            kept = "no earlier checkpoint" if last is None else f"the last good one is step {last}"
            raise SaveError(
                f"could not save step {step} in {self.folder}: {reason}; {kept}"
            ) from error
        self._good.add(step)

    def restore(self, step: int, like: Any) -> Any:
        """Return the state saved at `step`, in the structure, types and shardings of `like`.

        Raises:
            UsageError: The saved state has another structure, of another version of genjax.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"checkpoint {step} in {self.folder} is of another version of genjax: "
                "its state has another structure"
            ) from error

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()
