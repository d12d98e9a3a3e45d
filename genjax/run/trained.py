"""Trained models: what a run folder, the result of a training, or a model file is loaded to."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import tyro
from etils import epath

from genjax.data.digest import digest_of
from genjax.data.paths import to_path
from genjax.data.source import DataOptions, Source
from genjax.data.sources import absolute, open_source
from genjax.data.values import is_value, name_of
from genjax.run.checkpoint import Checkpoints
from genjax.run.folder import RunFolder
from genjax.run.model_file import Card, is_model_file, read_arrays, to_state
from genjax.run.options import AnyData
from genjax.run.recipe import Recipe
from genjax.run.records import read_records
from genjax.run.shipped import trained_paths
from genjax.run.states import abstract_state
from genjax.types import ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# A checkpoint of a run: the best by its quality metric, the latest, or that of a step.
Checkpoint = Literal["best", "latest"] | int


@dataclasses.dataclass(frozen=True)
class Result:
    """The end of a training.

    Attributes:
        run: The run folder.
        step: The last step, which is saved.
        data: The data, if they were given as a value.
    """

    run: epath.Path
    step: int
    data: Source | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A trained model, which functions take in place of the run folder or file that it is from.

    Attributes:
        recipe: The recipe that it was trained by.
        state: Its state; from a model file, what samples and evaluation need of it.
        step: The step of the state.
        class_names: Names of the classes, in the order of their numbers.
        origin: Where it was loaded from.
        quality: Its metrics in training.
        folder: The run folder that it was loaded from; None for a model file.
        card: The card of the model file that it was loaded from; None for a run folder.
        data: Its data, if they were given as a value.
    """

    recipe: Recipe
    state: State
    step: int
    class_names: tuple[str, ...]
    origin: epath.Path
    quality: Mapping[str, float | None]
    folder: RunFolder | None = None
    card: Card | None = None
    data: Source | None = None

    @property
    def spec(self) -> ImageSpec:
        """The shape of its images."""
        spec: ImageSpec = self.state.spec
        return spec

    def __repr__(self) -> str:
        return f"step {self.step} of {self.origin}"


# What names of trained models that come with genjax begin with.
SHIPPED = "trained:"

# What functions of a trained model take; on a command line a path, as a positional argument.
Model = Annotated[
    str | Path | Result | Trained,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN", constructor=str),
]


def load(what: Model, checkpoint: Checkpoint = "best", data: AnyData = None) -> Trained:
    """Load a trained model.

    Args:
        what: A run folder, the result of a training, a model file of `genjax export`, or one that
            comes with genjax, `trained:NAME`; a `Trained` itself is returned.
        checkpoint: Of a run: the best by its quality metric, the latest, or that of a step.
        data: The data that the recipe names, at another place or, where they were given as a value,
            again. None: where they were.

    Returns:
        The model. Only the files of the checkpoint that is restored are read and verified.

    Raises:
        UsageError: There is no run or model file, or no such good checkpoint, or the data are other
            ones than those that were given as a value.
    """
    if isinstance(what, Trained):
        found = _only(what, checkpoint)
    else:
        path = path_of(what)
        if is_model_file(path):
            found = _only(_from_file(path), checkpoint)
        else:
            found = _from_folder(RunFolder(path), checkpoint)
    if isinstance(what, Result):
        found = dataclasses.replace(found, data=what.data)
    return found if data is None else _with_data(found, data)


def _with_data(trained: Trained, data: str | Source) -> Trained:
    """Return a model with its data at another place, or given again."""
    name, before = absolute(name_of(data)), trained.recipe.data
    if is_value(before):
        found = name if is_value(name) else name_of(open_source(name, DataOptions()))
        if before != found:
            raise UsageError(
                f"data = {name}: its images are not those that the run was made from ({found}, not "
                f"{before})"
            )
    recipe = dataclasses.replace(trained.recipe, data=name)
    if not is_value(before) and (known := _digest_of_data(trained)) is not None:
        source = open_source(name, recipe.data_options)
        if digest_of(source.contents(recipe.data_options.digest == "full")) != known:
            log.warning("%s: these are not the images that %s was trained on", name, trained.origin)
    return dataclasses.replace(trained, recipe=recipe, data=None if isinstance(data, str) else data)


def _digest_of_data(trained: Trained) -> str | None:
    """Return the digest of the data that a model was trained on, if it is known."""
    if trained.folder is not None:
        return trained.folder.read_config().data_digest
    return trained.card.data_digest if trained.card is not None else None


def path_of(what: Model) -> epath.Path:
    """Return the path of a run folder or a model file.

    Raises:
        UsageError: No such model comes with genjax, or it is no path at all.
    """
    if not isinstance(what, (str, os.PathLike, Result, Trained)):
        raise UsageError(
            f"{what!r:.60}: wanted a run folder, a model file, the result of a training, or what "
            "genjax.load returns"
        )
    if isinstance(what, Trained):
        return what.origin
    if isinstance(what, str) and what.startswith(SHIPPED):
        name, paths = what.removeprefix(SHIPPED), trained_paths()
        if name not in paths:
            raise UsageError(f"no trained model {name!r}: wanted {', '.join(paths) or 'none'}")
        return epath.Path(paths[name])
    return to_path(what.run if isinstance(what, Result) else what)


def history(run: Model) -> list[dict[str, float]]:
    """Return the records of a run, those of `metrics.jsonl`: `pandas.DataFrame(history(run))`.

    Raises:
        UsageError: There is no run, or its records cannot be read.
    """
    folder = RunFolder(path_of(run))
    folder.read_config()  # raises if it is none
    return read_records(folder)


def is_trained(path: epath.Path) -> bool:
    """Return whether a path is that of a model file or of a run folder."""
    return is_model_file(path) or (path / "config.json").is_file()


def _only(trained: Trained, checkpoint: Checkpoint) -> Trained:
    """Return a model of which there is one checkpoint, if it is the one that is wanted."""
    if checkpoint not in ("best", "latest", trained.step):
        raise UsageError(
            f"checkpoint = {checkpoint}: {trained.origin} is a model of step {trained.step}"
        )
    return trained


def _from_folder(folder: RunFolder, checkpoint: Checkpoint) -> Trained:
    config = folder.read_config()
    recipe = config.recipe
    like = abstract_state(recipe, config.spec)
    checkpoints = Checkpoints(
        *(folder.checkpoints, config.id, recipe.keep, recipe.quality),
        writable=False,
        since=config.same_data_since,
    )
    step = checkpoints.find(checkpoint)
    state = checkpoints.restore(step, like)
    quality = checkpoints.metrics(step)
    return Trained(recipe, state, step, config.class_names, folder.path, quality, folder)


def _from_file(path: epath.Path) -> Trained:
    card, arrays = read_arrays(path)
    like = abstract_state(card.recipe, card.spec)
    state = to_state(path, arrays, like if card.is_whole else like.for_sampling())
    return Trained(
        *(card.recipe, state, card.step, card.class_names, path, card.quality), card=card
    )
