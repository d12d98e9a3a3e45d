"""Recipes: all that determines a run, as one frozen value that is checked before any work."""

import dataclasses
import difflib
import functools
import hashlib
import inspect
import json
import logging
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import jax
import jax.numpy as jnp
import optax
import tyro
from pydantic import Field, ValidationError, model_validator

from genjax.data.digest import fingerprint
from genjax.data.source import DataOptions
from genjax.models import FAMILIES, RecipeFile, all_families, file_of, find_family, registering
from genjax.nn.augment import mirror
from genjax.nn.precision import Precision
from genjax.run.options import SEEDS, Flat
from genjax.run.sharding import Parallel
from genjax.run.shipped import recipe_paths, to_list
from genjax.steps.freeze import freeze
from genjax.steps.optim import GIVEN, optimizers_of
from genjax.types import (
    Batch,
    Config,
    Family,
    ImageSpec,
    Metrics,
    State,
    UsageError,
    checked,
    describe,
    shown,
)

log = logging.getLogger("genjax")

# The key of the mirroring is folded in with this number, which no family uses.
MIRROR_KEY = 2**31 - 1

# A program counts in int32, and heeds no signal within a call.
INT32, MOST_IN_A_CALL = 2**31, 100_000

# The data in the recipe of weights that were imported, which do not say what they learned from.
UNKNOWN = "unknown"
# The metric by which a checkpoint is the best; lower is better.
Quality = Literal["auto", "frechet_distance", "energy_distance", "eval_nll", "latest"]
# The most rows and columns of images that a small classifier judges in little time, and whose
# distance in pixels is one of more than colours.
MOST_JUDGED = 64

# In a recipe's JSON, the file that registers its family.
FAMILY_FILE = "family_file"


@checked
class Recipe:
    """A family's config, the data, and the schedule of a run."""

    family: Annotated[str, tyro.conf.Suppress]
    """A key of `genjax.models.FAMILIES`."""
    model: Annotated[Config, Flat]
    """The family's config."""
    data: str = "digits"
    """digits, tfds:NAME, folder:PATH, or the path of a .zip, where paths may be gs://, s3:// or
    hf://; or that of an .array_record that `genjax prepare` wrote."""
    data_options: Annotated[DataOptions, Flat] = DataOptions()
    """How the data are read."""
    steps: Annotated[int, Field(gt=0, lt=INT32)] = 20_000
    """Training steps."""
    freeze: tuple[str, ...] = ()
    """Patterns of the names of parameters that do not train, such as 'discriminator.params.down_0*'
    (FreezeD)."""
    mirror: bool = False
    """Whether each image is mirrored left-right with probability 1/2, anew at each step; not for
    digits and letters."""
    batch_size: Annotated[int, Field(gt=1, le=2**20)] = 128
    """Images a step, over all devices."""
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] = 0
    """Seed of the initial weights, the order of the data, and every draw."""
    log_interval: Annotated[int, Field(gt=0, le=MOST_IN_A_CALL)] = 100
    """Steps in one compiled call; metrics are averaged over it."""
    save_interval: Annotated[int, Field(gt=0, lt=INT32)] = 1000
    """Steps between checkpoints, each with a grid of samples and the quality metric."""
    quality: Quality = "auto"
    """Metric of which the lowest is the best checkpoint; latest for none. auto: frechet_distance
    with quality-weights; else eval_nll of a family with a likelihood; else, of images up to 64
    pixels a side, frechet_distance if they have classes and energy_distance if not; else latest."""
    quality_samples: Annotated[int, Field(ge=10, le=2**20)] = 2000
    """Samples whose frechet_distance from all training images is taken at each save."""
    quality_weights: str | None = None
    """File with Inception's weights, in whose features frechet_distance is taken. None: in those of
    a classifier of the data, as by `genjax evaluate`."""
    keep: Annotated[int, Field(ge=2, lt=INT32)] = 3
    """Number of latest checkpoints kept, beside the best; at least 2, so that one is safe during a
    save."""
    parallel: Parallel = "jit"
    """How the step is spread over devices: jit over a sharded batch; fsdp, with the state split
    too, for models that are large beside a device's memory; or pmap."""
    deterministic: bool = False
    """Take only operations whose results have the same bits in every run. On a GPU others are
    faster; a CPU has no others."""
    precision: Precision = "default"
    """How far the factors of networks' products may be rounded in float32: on a TPU to 8, 16 or 24
    binary digits, on a GPU to 11 (default, high) or not (highest). The fewer the faster; a CPU
    rounds none."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        family = find_family(self.family)
        if family is None:
            raise ValueError(
                f"family {shown(self.family)} is unknown: wanted {', '.join(FAMILIES)}, or one "
                "that genjax.register has added"
            )
        if not isinstance(self.model, family.config):
            raise ValueError(f"model is a {type(self.model).__name__}, not of {self.family}")
        for name, number in _numbers(dataclasses.asdict(self.model)):
            if number >= INT32:
                raise ValueError(f"{name} = {number}: should be less than {INT32}")
        if self.save_interval % self.log_interval:
            raise ValueError(
                f"save_interval {self.save_interval} must be a multiple of "
                f"log_interval {self.log_interval}"
            )
        if self.deterministic and self.parallel == "pmap":
            raise ValueError("deterministic: wanted parallel = jit or fsdp, not pmap")
        if self.quality == "eval_nll" and family.evaluate is None:
            raise ValueError(f"quality = eval_nll: family {self.family!r} has no likelihood")
        if self.quality_weights is not None and self.quality not in ("auto", "frechet_distance"):
            raise ValueError(
                f"quality_weights = {self.quality_weights}: for quality = frechet_distance, "
                f"not {self.quality}"
            )
        return self

    @property
    def functions(self) -> Family:
        """The family's functions, with the products of networks at the recipe's precision."""
        family = FAMILIES[self.family]
        if self.precision == "default":
            return family
        at_precision = jax.default_matmul_precision(self.precision)
        functions = {k: v for k, v in vars(family).items() if inspect.isfunction(v)}
        return dataclasses.replace(family, **{k: at_precision(v) for k, v in functions.items()})

    def with_optimizers(self, **players: optax.GradientTransformation) -> Self:
        """Return the recipe with optimizers of one's own, by the name of the player's config.

            recipe.with_optimizers(generator=optax.lion(1e-4), discriminator=optax.sgd(1e-3))

        They have their step sizes and schedules inside, which count updates. A run keeps only that
        there was one: `resume` wants it again, in its `recipe`; what draws or evaluates does not.

        Raises:
            UsageError: The model has no such player.
        """
        known = dict(optimizers_of(self.model))
        if unknown := sorted(players.keys() - known.keys()):
            raise UsageError(f"optimizer of {unknown[0]!r}: wanted {' or '.join(known)}")
        changed: dict[str, Any] = {
            name: dataclasses.replace(known[name], optax=given) for name, given in players.items()
        }
        return dataclasses.replace(self, model=dataclasses.replace(self.model, **changed))

    @property
    def unknown_optimizers(self) -> list[str]:
        """The players whose optimizers were given in Python, and are not known here."""
        return [name for name, each in optimizers_of(self.model) if each.optax == GIVEN]

    def exact(self) -> Self:
        """Return the recipe with networks whose float32 products are not rounded anywhere."""
        model: Any = self.model
        if getattr(model, "dtype", None) == "bfloat16":
            model = dataclasses.replace(model, dtype="float32")
        return dataclasses.replace(self, model=model, precision="highest")

    def with_quality(self, spec: ImageSpec) -> Self:
        """Return the recipe with the metric that `quality = "auto"` is for images of `spec`.

        Raises:
            UsageError: There is no file of weights, or a feature net is wanted, and the images have
                no classes to train one for.
        """
        if self.quality_weights is not None and not Path(self.quality_weights).is_file():
            raise UsageError(f"quality_weights = {self.quality_weights}: there is no such file")
        has_classes, quality = spec.classes > 1, self.quality
        if quality == "auto":
            if self.quality_weights is not None:
                quality = "frechet_distance"
            elif self.functions.evaluate is not None:
                quality = "eval_nll"
            elif max(spec.height, spec.width) > MOST_JUDGED:
                quality = "latest"
            else:
                quality = "frechet_distance" if has_classes else "energy_distance"
        if quality == "frechet_distance" and not has_classes and self.quality_weights is None:
            raise UsageError(
                f"quality = {quality}: {self.data} has no classes to train a feature net for; "
                "wanted --quality-weights, or --quality energy_distance or latest"
            )
        return dataclasses.replace(self, quality=quality)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Give the integers of a config, each with the name of its field, `generator.features`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int):
                yield prefix + name, item


def load_recipe(name: str | Path | Recipe) -> Recipe:
    """Load a recipe by its name in `recipe_paths()`, or from a Python file that sets `recipe`.

    A recipe itself is returned.

    Raises:
        UsageError: There is no such recipe or file, or the file sets no recipe.
    """
    if isinstance(name, Recipe):
        return name
    if not isinstance(name, (str, Path)):
        raise UsageError(f"recipe = {shown(name)}: wanted a genjax.Recipe, a name, or a .py file")
    paths, name = recipe_paths(), str(name)
    path = Path(name) if name.endswith(".py") else paths.get(name)
    if path is None:
        close = difflib.get_close_matches(name, paths, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise UsageError(
            f"no recipe {name!r}{hint} Known: {', '.join(paths)}, or the path of a .py file"
        )
    if not path.is_file():
        raise UsageError(f"no recipe file {path}")
    recipe = _run_file(path).get("recipe")
    if not isinstance(recipe, Recipe):
        raise UsageError(f"{path} sets no `recipe = genjax.Recipe(...)`")
    return recipe


def _run_file(path: Path) -> dict[str, Any]:
    """Run a recipe's file and return its names; raise its mistake, on one line, as `UsageError`.

    A file is run once, unless it changes, so that a family which it registers has one config.
    """
    text = path.read_bytes()
    digest = hashlib.sha256(text).hexdigest()[:16]
    file = RecipeFile(str(path.resolve()), digest)
    # A module, as pydantic and tyro look for the names of annotations in the module of a class.
    name = f"genjax_recipe_{fingerprint([file.path.encode(), text])}"
    if name in sys.modules:
        return vars(sys.modules[name])
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with registering(file):
            exec(compile(text, str(path), "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines, error = [error.lineno], SyntaxError(error.msg)
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UsageError(f"{place}: {describe(error)}") from error
    return vars(module)


def train_step(recipe: Recipe) -> Callable[[State, Batch, jax.Array], tuple[State, Metrics]]:
    """Return the family's step, `step(state, batch, key)`, with what the recipe adds to it.

    Images are mirrored and parameters frozen as the recipe says.
    """
    step = functools.partial(recipe.functions.step, recipe.model)

    def whole(state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        if recipe.mirror:
            images = mirror(jax.random.fold_in(key, MIRROR_KEY), jnp.asarray(batch.images))
            batch = Batch(images, batch.labels)
        after, metrics = step(state, batch, key)
        return freeze(recipe.freeze, state, after), metrics

    return whole if recipe.mirror or recipe.freeze else step


def list_all() -> str:
    """List the recipes that come with genjax, and the families."""
    return to_list({name: family.paper for name, family in all_families().items()})


def to_json(recipe: Annotated[Recipe, Flat]) -> dict[str, Any]:
    """Return the recipe as plain JSON values, every default spelled out."""

    def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {k: GIVEN if isinstance(v, optax.GradientTransformation) else v for k, v in pairs}

    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe, dict_factory=plain)))
    file = file_of(recipe.family)
    return values | ({FAMILY_FILE: dataclasses.asdict(file)} if file else {})


def as_object(name: str, value: Any) -> dict[str, Any]:
    """Return a JSON value that must be an object; raise `UsageError` if it is another."""
    if not isinstance(value, dict):
        raise UsageError(f"{name} = {shown(value)}: should be an object")
    return value


def from_json(value: Any) -> Recipe:
    """Return the recipe of a JSON value: the inverse of `to_json`.

    Raises:
        UsageError: A field is unknown, missing or impossible; the message names it.
    """
    values = dict(as_object("recipe", value))
    name, file = str(values.get("family")), values.pop(FAMILY_FILE, None)
    family = find_family(name)
    if file is not None:
        _check_file(name, family, as_object(FAMILY_FILE, file))
    try:
        if "model" in values:
            model = as_object("model", values["model"])
            values = values | {"model": family.config(**model) if family else Config()}
        return Recipe(**values)
    except (ValidationError, TypeError) as error:
        raise UsageError(describe(error)) from error


def _check_file(name: str, family: Family | None, file: Mapping[str, Any]) -> None:
    """Say which file has to be given for a family that it registers, or that it has changed."""
    path = str(file.get("path"))
    if family is None:
        raise UsageError(
            f"family {name!r} is that of the file {path}, whose code is run only if you say so: "
            f"--recipe {path}, or in Python genjax.load_recipe({path!r})"
        )
    known = file_of(name)
    if known is not None and known.digest != file.get("digest"):
        log.warning("%s has changed since the run began: its family may be another", known.path)
