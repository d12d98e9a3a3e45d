"""The run folder: the paths in it, and the lock that lets one process write."""

import contextlib
import dataclasses
import json
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import filelock
import jax
import numpy as np
from etils import epath
from pydantic import Field, ValidationError

from genjax.data.digest import pack, unpack
from genjax.data.paths import is_copied, is_in_hub, is_remote, to_path
from genjax.data.processes import all_gather, barrier, is_first, run_on_first
from genjax.models import find_family
from genjax.run.checkpoint import write_atomically
from genjax.run.recipe import Recipe, as_object, from_json, to_json
from genjax.types import ImageSpec, UsageError, checked, describe

# The version of config.json. It increases when fields are renamed, so that an older run is refused
# with one line and not with one for each field. A file without a version is of version 1.
FORMAT = 3


@checked
class Origin:
    """The trained model that a run's weights come from."""

    path: str
    """Its run folder or model file."""
    step: int
    """The step of its state."""
    digest: str
    """The SHA-256 of its state."""


@checked
class RunConfig:
    """What `config.json` holds, checked like a recipe."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """A random name, made when the run began, by which its checkpoints are known."""
    recipe: Recipe
    """The resolved recipe."""
    spec: ImageSpec
    """The shape of the data."""
    images: Annotated[int, Field(gt=0)]
    """Number of images in the data."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of their numbers."""
    data_digest: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """The digest of the data when the run began, from `digest_of`."""
    init: Origin | None = None
    """The trained model that its first weights come from."""
    same_data_since: Annotated[int, Field(ge=0)] = 0
    """The step from which on it trains on the data that it has now: checkpoints of before were
    measured against others, so that none of them is the best."""


class RunFolder:
    """The files of a run, which are all that `resume`, `sample` and `evaluate` need.

    Args:
        path: A local folder, or one in a bucket or hub, such as `gs://BUCKET/RUN`.

    Raises:
        UsageError: The path is one of another scheme, or needs a package that is not installed.

    Attributes:
        config: The `RunConfig`: the resolved recipe, the shape of the data and their digest.
        data: Size, class and fingerprint of each file of the data when the run began.
        environment: Versions and devices, a line for each start or resume.
        metrics: The metrics, a line for each `log_interval` steps.
        log: Messages and warnings.
        curves: Plots of the metrics.
        samples: Grids of samples over time, from the same latents.
        evaluations: Results of `evaluate`, a line for each call.
        figures: Images of the last evaluation: samples, paths, and the nearest training images.
        tensorboard: TensorBoard events.
        checkpoints: Orbax checkpoints, each with its digests.
    """

    def __init__(self, path: str | Path | epath.Path):
        self.path = path = to_path(path)
        self._scratch: Path | None = None
        self.config = path / "config.json"
        self.data = path / "data.json.gz"
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
        """Return a local path at which to append to a file or folder of the run.

        Objects in a bucket cannot be appended to, so for them it is a copy in a scratch folder,
        which `publish` uploads.
        """
        if not is_remote(path):
            return Path(path)
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp())
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        local = self._scratch / path.name
        if not local.exists() and path.is_file():
            local.write_bytes(path.read_bytes())
        return local

    def publish(self) -> None:
        """Upload the scratch files of `to_append` to the run's bucket, if it is in one."""
        if self._scratch is not None:
            for file in self._scratch.rglob("*"):
                if file.is_file():
                    (self.path / file.relative_to(self._scratch)).write_bytes(file.read_bytes())

    def write_config(self, config: RunConfig) -> None:
        """Write the config, whole or not at all; with several processes, the first one writes.

        Raises:
            UsageError: Some processes do not see the file, so the folder is not shared.
        """
        if is_first():
            values = {"format": FORMAT} | dataclasses.asdict(config)
            values["recipe"] = to_json(config.recipe)
            write_atomically(self.config, json.dumps(values, indent=2).encode() + b"\n")
        barrier("config written")
        if not all_gather(np.array(self.config.exists())).all():
            raise UsageError(
                f"not all processes see {self.path}: wanted a folder that they share, such as "
                "gs://BUCKET/RUN"
            )

    def read_config(self) -> RunConfig:
        """Read the config.

        Raises:
            UsageError: The folder holds no run or one of another format, or its config cannot be
                read.
        """
        try:
            values = as_object("the file", json.loads(self.config.read_bytes()))
            if (found := values.pop("format", 1)) != FORMAT:
                raise UsageError(
                    f"a run of another version of genjax, with other names for its fields (format "
                    f"{found!r:.20}, not {FORMAT}): use the version that {self.environment.name} "
                    "names, or train it again"
                )
            if "recipe" in values:
                values["recipe"] = from_json(_with_quality(values["recipe"]))
            return RunConfig(**values)
        except FileNotFoundError as error:
            raise UsageError(f"{self.path} is not a run folder: it has no config.json") from error
        except NotADirectoryError as error:
            raise UsageError(
                f"{self.path} is no run folder, and no model file by its name: wanted one that "
                "ends in .safetensors; weights of other programs: genjax import"
            ) from error
        except (UsageError, ValidationError) as error:
            raise UsageError(f"{self.config}: {describe(error)}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{self.config} cannot be read: {error!r}") from error

    def write_contents(self, contents: Mapping[str, str]) -> None:
        """Write what the data hold, as `Source.contents` says it; the first process writes."""
        if is_first():
            write_atomically(self.data, pack(contents))

    def read_contents(self) -> dict[str, str]:
        """Read what the data held when the run began; {} if the run does not say.

        Raises:
            UsageError: The file cannot be read.
        """
        try:
            return unpack(self.data.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise UsageError(f"{self.data} cannot be read: {error!r}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder inside the context; the system unlocks it however the process ends.

        A bucket has no locks, so a second process on its folder is not noticed.

        Raises:
            UsageError: Another process has locked it, or it is in a hub.
        """
        check_trainable(self.path)
        lock = None if is_remote(self.path) else filelock.FileLock(self.path / ".lock", timeout=0)

        def acquire() -> None:
            try:
                if lock is not None:
                    lock.acquire()
            except filelock.Timeout as error:
                raise UsageError(f"another process is training in {self.path}") from error

        run_on_first(acquire)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()


def check_trainable(path: epath.Path) -> None:
    """Raise a `UsageError` if no run can be trained at a path."""
    if is_in_hub(path):
        raise UsageError(
            f"run {path}: a hub is read from, not trained in; wanted a local folder, gs:// or s3://"
        )
    if is_copied(path) and jax.process_count() > 1:
        raise UsageError(
            f"run {path}: several processes write checkpoints together; wanted a folder that they "
            "share, or gs://"
        )


def _with_quality(recipe: Any) -> Any:
    """Add to a recipe from before it had a `quality` the metric that was that of its family."""
    if not isinstance(recipe, dict) or "quality" in recipe:
        return recipe
    family = find_family(str(recipe.get("family")))
    has_likelihood = family is not None and family.evaluate is not None
    return recipe | {"quality": "eval_nll" if has_likelihood else "energy_distance"}


def create_run_folder(path: str | Path | None, name: str) -> RunFolder:
    """Create a folder for a run.

    Args:
        path: Its path, which must be empty or not exist. None: the first of `runs/NAME`,
            `runs/NAME-2`, ... that does not exist.
        name: The NAME of the run, used if `path` is None.

    Raises:
        UsageError: There is something at `path`.
    """
    return RunFolder(run_on_first(lambda: _create(path, name)))


def _create(path: str | Path | None, name: str) -> str:
    if path is not None:
        folder = to_path(path)
        check_trainable(folder)
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
