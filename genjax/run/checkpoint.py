"""Checkpoints that can be trusted: Orbax's, each with a digest of its files.

Orbax commits a checkpoint atomically, but restores one with a flipped byte as garbage, in silence.
So once a checkpoint is committed we write the SHA-256 of each of its files into it. A checkpoint
without that list is one whose save did not finish; one whose files differ from it is damaged.
Neither is ever restored.

Several processes save and restore together, on storage that all of them see; the first alone
checks, writes digests and moves what is damaged, and tells the others.
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
from genjax.data.processes import by_first, is_first, wait
from genjax.types import UsageError

log = logging.getLogger("genjax")

DIGESTS = "sha256.json"


class SaveError(OSError):
    """A checkpoint could not be written; the ones before it are untouched."""


def write_atomically(path: Path | epath.Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens in between."""
    if is_remote(path):  # where an object appears when it is complete
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
    """SHA-256 of each file under `folder`, by its path there."""
    digests, folder = {}, epath.Path(folder)
    for path in sorted(files(folder)):
        if path.name != DIGESTS:
            with path.open("rb") as file:
                name = path.relative_to(folder).as_posix()
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def damage(folder: Path | epath.Path) -> str | None:
    """What is wrong with a checkpoint's files; None if nothing is."""
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
        folder: Where they lie; each is a folder named by its step.
        keep: How many of the latest are kept.
        best: Name of the metric that says which is best; lower is better.
        writable: Whether they are to be written: then damaged ones are moved aside, into
            `damaged/` beside the folder, and unfinished ones removed by Orbax's rules.
    """

    def __init__(self, folder: Path | epath.Path, keep: int, best: str, writable: bool):
        self.folder, self._writable = epath.Path(folder), writable
        self._good = set(by_first(self._check))
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
        # An absolute path to Orbax; epath makes nonsense of a bucket's.
        absolute = self.folder if is_remote(self.folder) else self.folder.resolve()
        self._manager = ocp.CheckpointManager(absolute, options=options)

    def _check(self) -> list[int]:
        """Steps of the good checkpoints, ascending."""
        good = []
        candidates = self.folder.iterdir() if self.folder.is_dir() else ()
        for path in sorted(p for p in candidates if p.is_dir() and p.name.isdigit()):
            problem = damage(path)
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
        """Step of the latest good checkpoint."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step of the best good checkpoint, or the latest if none has the metric."""
        best = self._manager.best_step()
        return best if best in self._good else self.latest

    def save(self, step: int, state: Any, metrics: dict[str, float] | None) -> None:
        """Save a state, and let the oldest go.

        Raises:
            SaveError: It could not be written, for want of space for instance.
        """
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)
            path = self.folder / f"{step:08d}"
            if is_first():
                write_atomically(path / DIGESTS, json.dumps(_digests(path), indent=1).encode())
            wait(f"step {step} saved")
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            full = os.strerror(errno.ENOSPC)  # TensorStore wraps it in four paths
            reason = full if full in reason else reason
            last = self.latest
            kept = "no earlier checkpoint" if last is None else f"the last good one is step {last}"
            raise SaveError(
                f"could not save step {step} in {self.folder}: {reason}; {kept}"
            ) from error
        self._good.add(step)

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, in the structure, types and shardings of `like`.

        Raises:
            UsageError: It has another structure, so it is of another version of genjax.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"checkpoint {step} in {self.folder} is of another version of genjax: "
                "its state has another structure"
            ) from error

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()
