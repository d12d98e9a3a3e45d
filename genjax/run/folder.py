"""The run folder: where things lie in it, and who may write there."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from etils import epath

from genjax.data.paths import is_remote, to_path
from genjax.data.processes import by_first, gathered, is_first, wait
from genjax.run.checkpoint import write_atomically
from genjax.run.recipe import Recipe, from_json, to_json
from genjax.types import ImageSpec, UsageError

# Of config.json. It counts up when fields are renamed, so that a run of before is refused in one
# line, and not field by field; 1 is a file that names none.
FORMAT = 2


class RunFolder:
    """All that `resume`, `sample` and `evaluate` need.

    Args:
        path: Of a folder, or in a bucket, such as `gs://BUCKET/RUN`.

    Raises:
        UsageError: What reads buckets is not installed.

    Attributes:
        config: The resolved recipe and the shape of the data.
        environment: Versions and devices, a line for each time the run was started or resumed.
        metrics: A line for each `log_interval` steps.
        log: What was said, warnings above all.
        curves: The metrics as a picture.
        samples: Grids over time, from the same latents.
        evaluations: A line for each `evaluate`.
        figures: What the last evaluation saw: samples, paths, and the nearest training images.
        tensorboard: TensorBoard events.
        checkpoints: Orbax checkpoints, each with its digests.
    """

    def __init__(self, path: str | Path | epath.Path):
        self.path = path = to_path(path)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.config = path / "config.json"
        self.environment = path / "environment.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.curves = path / "curves.png"
        self.samples = path / "samples"
        self.evaluations = path / "evaluations.jsonl"
        self.figures = path / "figures"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"

    def to_append(self, path: epath.Path) -> Path:
        """Where to append to a file, or write a folder of files, of this one.

        In a bucket nothing is appended to: it is done in a scratch folder, until `publish`.
        """
        if not is_remote(path):
            return Path(path)
        self._scratch = self._scratch or tempfile.TemporaryDirectory()
        local = Path(self._scratch.name) / path.name
        if not local.exists() and path.is_file():
            local.write_bytes(path.read_bytes())
        return local

    def publish(self) -> None:
        """Bring what was appended to where it belongs."""
        if self._scratch is not None:
            scratch = Path(self._scratch.name)
            for file in scratch.rglob("*"):
                if file.is_file():
                    (self.path / file.relative_to(scratch)).write_bytes(file.read_bytes())

    def write_config(self, recipe: Recipe, spec: ImageSpec, images: int) -> None:
        """Write the config, whole or not at all; of several processes the first does.

        Raises:
            UsageError: Not all processes see it then.
        """
        if is_first():
            values = {
                "format": FORMAT,
                "recipe": to_json(recipe),
                "spec": dataclasses.asdict(spec),
                "images": images,
            }
            write_atomically(self.config, json.dumps(values, indent=2).encode() + b"\n")
        wait("config written")
        if not gathered(np.array(self.config.exists())).all():
            raise UsageError(
                f"not all processes see {self.path}: wanted a folder that they share, such as "
                "gs://BUCKET/RUN"
            )

    def read_config(self) -> tuple[Recipe, ImageSpec, int]:
        """The recipe, the shape of the data and the number of images.

        Raises:
            UsageError: The folder holds no run or one of another format, or its config cannot be
                read.
        """
        try:
            values: dict[str, Any] = json.loads(self.config.read_bytes())
            if (found := values.get("format", 1)) != FORMAT:
                raise UsageError(
                    f"a run of another version of genjax, with other names for its fields (format "
                    f"{found}, not {FORMAT}): use the version that {self.environment.name} names, "
                    "or train it again"
                )
            return from_json(values["recipe"]), ImageSpec(**values["spec"]), values["images"]
        except FileNotFoundError as error:
            raise UsageError(f"{self.path} is not a run folder: it has no config.json") from error
        except UsageError as error:
            raise UsageError(f"{self.config}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.config} cannot be read: {error!r}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the system lets go of it however the process ends.

        A bucket knows no locks: nothing keeps a second run out of its folder.

        Raises:
            UsageError: Another process holds it.
        """
        lock = None if is_remote(self.path) else filelock.FileLock(self.path / ".lock", timeout=0)

        def acquire() -> None:
            try:
                if lock is not None:
                    lock.acquire()
            except filelock.Timeout as error:
                raise UsageError(f"another process is training in {self.path}") from error

        by_first(acquire)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()


def create_run_folder(path: str | Path | None, name: str) -> RunFolder:
    """A new folder for a run.

    Args:
        path: Where; it must not exist, or be empty. None: the first of `runs/NAME`,
            `runs/NAME-2`, ... that is not there.
        name: What the run is called.

    Raises:
        UsageError: There is something at `path`.
    """
    return RunFolder(by_first(lambda: _create(path, name)))


def _create(path: str | Path | None, name: str) -> str:
    if path is not None:
        folder = to_path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            hint = f"; to go on with it: genjax resume {folder}"
            is_run = (folder / "config.json").exists()
            raise UsageError(f"{folder} exists and is not empty{hint if is_run else ''}")
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    number = 1
    while True:
        folder = epath.Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            number += 1
