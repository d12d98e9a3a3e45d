"""The time of training steps and of the loop around them, for `genjax bench steps`."""

import contextlib
import dataclasses
import itertools
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from tqdm import tqdm
from tyro.conf import Positional

from genjax.bench.results import Column, Results, Row, duration
from genjax.bench.timing import (
    Dtype,
    Limits,
    alternating_times,
    machine,
    measure_limits,
)
from genjax.data.batches import Resident
from genjax.data.sources import expected_spec
from genjax.planning.cost import flops, peak_bytes, traffic
from genjax.run.environment import environment
from genjax.run.folder import RunFolder
from genjax.run.options import Flat
from genjax.run.recipe import Recipe, load_recipe, train_step
from genjax.run.records import read_records
from genjax.run.sharding import Steps
from genjax.run.states import abstract_state, initial_state
from genjax.trainer.loop import train
from genjax.types import Batch, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# A recipe of each family that two CPU cores can train.
RECIPES = (
    "gan_mnist_paper",
    "dcgan_mnist_paper",
    "wgan_digits_paper",
    "wgan_gp_mnist_paper",
    "vae_mnist",
    "glow_mnist",
    "biggan_digits",
    "stylegan_mnist",
    "stylegan2_mnist",
    "diffusion_mnist",
)
# Another implementation of a recipe's steps: `counterpart(recipe, spec, steps)` returns a function
# that takes `steps` steps and returns the seconds of one, or raises a `UsageError` with the reason
# why it cannot.
Counterpart = Callable[[Recipe, ImageSpec, int], Callable[[], float]]
# Number of random images to train on; only their shape matters.
IMAGES = 1024
# Numbers of steps in one call: multiples of the intervals of what only some steps do (5 for a
# critic, 16 for R1).
STEPS = (16, 80, 400)
# The largest of them is chosen whose call takes no longer than this, at this fraction of the speed
# of the machine's matrix product.
CALL_SECONDS, SHARE = 5.0, 0.3
# Number of records of a measured training loop. The first and the last are left out, because they
# include compiling and an evaluation.
RECORDS = 6


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the measurements of each recipe."""

    dtype: Dtype | None = None
    """Compute type. None: the recipe's."""
    batch_size: int | None = None
    """Images a step. None: the recipe's."""
    rounds: int = 5
    """Number of samples of each; the table has their medians, minima and maxima."""
    loop: bool = True
    """Also measure `genjax train`, on the recipe's own data."""
    data_dir: str | None = None
    """The folder of tfds data."""
    counterparts: Annotated[Mapping[str, Counterpart], tyro.conf.Suppress] = dataclasses.field(
        default_factory=dict
    )
    """Other implementations to time in alternation, by name; a new process must be able to import
    them."""


def bench_steps(
    recipes: Positional[Sequence[str]] = RECIPES,
    options: Annotated[Options, Flat] = Options(),
    devices: Sequence[int] = (1,),
) -> Results:
    """Time compiled training steps of recipes with all metrics, and the loop around them.

    Args:
        recipes: Names of recipes.
        options: Options of the measurements.
        devices: Numbers of devices, a row for each; on a CPU they are simulated.

    Returns:
        Rows of `recipe`, `batch`, `dtype`, `devices`, with:
        `seconds` of a step, `compile_seconds`, and `loop_seconds` of a step of `genjax train` (None
        if its data are not here);
        `flops`, the mean over the steps that were run, and `bytes` that a device reads and writes
        in a step;
        `program_bytes`, the memory that the compiler plans, and `peak_bytes`, the most memory that
        the process (or its accelerator) has used;
        for each counterpart `NAME_seconds` of its step, or the reason why there are none as
        `NAME_note`.

    Raises:
        UsageError: A recipe is unknown, or an option does not fit it.
    """
    if options.rounds < 1:
        raise UsageError(f"rounds = {options.rounds}: should be at least 1")
    adapted = {name: _adapted(load_recipe(name), options) for name in recipes}
    for name, recipe in adapted.items():
        for count in devices:
            if count < 1 or recipe.batch_size % count:
                raise UsageError(
                    f"devices = {count}: should divide the batch_size of {name}, "
                    f"{recipe.batch_size}"
                )
    dtypes = sorted({dtype_of(recipe) for recipe in adapted.values()})
    about, limits = _in_process(1, _surroundings, dtypes)
    rows = []
    for name, count in tqdm(list(itertools.product(recipes, devices)), unit="recipe"):
        rows.append(_in_process(count, measure, name, options, count, limits))
    return Results("steps", about, limits, rows)


def _adapted(recipe: Recipe, options: Options) -> Recipe:
    if options.dtype is not None:
        model: Any = recipe.model
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(model, dtype=options.dtype))
    if options.batch_size is not None:
        recipe = dataclasses.replace(recipe, batch_size=options.batch_size)
    if options.data_dir is not None:
        data_options = dataclasses.replace(recipe.data_options, data_dir=options.data_dir)
        recipe = dataclasses.replace(recipe, data_options=data_options)
    return recipe


def dtype_of(recipe: Recipe) -> str:
    """Return the compute type of a recipe's model."""
    return str(getattr(recipe.model, "dtype", "float32"))


def _in_process(devices: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, so that its programs and memory are gone afterwards."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    with environment(XLA_FLAGS=flags):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *arguments).result()


def _surroundings(dtypes: Sequence[str]) -> tuple[dict[str, Any], Limits]:
    return machine(), measure_limits(dtypes)


def measure(name: str, options: Options, devices: int, limits: Limits) -> Row:
    """Measure one recipe, in this process; see `bench_steps`."""
    recipe = _adapted(load_recipe(name), options)
    row, runners = prepare(recipe, options.counterparts, devices, limits)
    row = {"recipe": name, **row, **sample(runners, options.rounds), "loop_seconds": None}
    if options.loop and devices == 1:
        row["loop_seconds"] = loop_seconds(recipe, row["steps"])
    return row


def prepare(
    recipe: Recipe,
    counterparts: Mapping[str, Counterpart],
    devices: int,
    limits: Limits,
    call_seconds: float = CALL_SECONDS,
) -> tuple[Row, dict[str, Callable[[], float]]]:
    """Compile a recipe's steps, and their counterparts'.

    Args:
        recipe: The recipe.
        counterparts: Other implementations to time in alternation, by name.
        devices: Number of devices.
        limits: Limits of the machine.
        call_seconds: Seconds that a call of many steps should take at most.

    Returns:
        The row but for its times, and functions that take steps and return the seconds of one, for
        `sample`.
    """
    spec = expected_spec(recipe.data, recipe.data_options)
    with tempfile.TemporaryDirectory() as folder:
        # The program is compiled once, for its time and text; to be run, it is found in this cache.
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        trainer = Trainer(recipe, spec, devices, limits, call_seconds)
        row: Row = {
            "batch": recipe.batch_size,
            "dtype": dtype_of(recipe),
            "devices": devices,
            "steps": trainer.steps,
            **trainer.costs,
        }
        trainer()
        row["peak_bytes"] = _peak_bytes()
        runners: dict[str, Callable[[], float]] = {"genjax": trainer}
        for counterpart, make in counterparts.items():
            try:
                runners[counterpart] = make(recipe, spec, trainer.steps)
            except UsageError as error:
                row[f"{counterpart}_note"] = str(error)
    return row, runners


def sample(runners: Mapping[str, Callable[[], float]], rounds: int) -> Row:
    """Return the times of what `prepare` compiled, in alternation: `seconds`, `NAME_seconds`."""
    times = alternating_times(runners, rounds)
    return {
        "seconds" if name == "genjax" else f"{name}_seconds": values
        for name, values in times.items()
    }


class Trainer:
    """A recipe's compiled steps on random images; a call returns the seconds of one step.

    The step is near the end of training, where a network that grows has its full size.

    Attributes:
        steps: Number of steps in one call.
        hlo: The text of the compiled program.
        costs: `compile_seconds`, `flops`, `bytes` and `program_bytes`.
    """

    def __init__(
        self,
        recipe: Recipe,
        spec: ImageSpec,
        devices: int,
        limits: Limits,
        call_seconds: float = CALL_SECONDS,
    ):
        rng = np.random.default_rng(0)
        count = max(IMAGES, recipe.batch_size)
        images = rng.integers(0, 256, (count, *spec.shape), np.uint8)
        labels = rng.integers(0, max(1, spec.classes), count).astype(np.int32)
        batches = Resident(images, labels, recipe.batch_size, seed=0)
        step = train_step(recipe)
        like = abstract_state(recipe, spec)
        batch = Batch(images[: recipe.batch_size], labels[: recipe.batch_size])
        jaxpr = jax.make_jaxpr(step)(like, batch, jax.random.key(0))
        seconds = flops(jaxpr) / (SHARE * limits.product[dtype_of(recipe)])
        self.steps = max([n for n in STEPS if n * seconds <= call_seconds], default=STEPS[0])
        self._program = Steps(
            step,
            batches,
            recipe.batch_size,
            jax.random.key(recipe.seed),
            recipe.parallel,
            like,
            jax.devices()[:devices],
        )
        start = time.perf_counter()
        compiled = self._program.trace(self.steps).lower().compile()
        compile_seconds = time.perf_counter() - start
        self.hlo = compiled.as_text()
        state = initial_state(recipe, spec, jax.random.key(0))
        # A multiple of all intervals, so that a call covers whole periods of them.
        self._first = recipe.steps - recipe.steps % STEPS[-1]
        state = dataclasses.replace(state, step=np.int32(self._first))
        self._state = self._program.put(state)
        self._feed = batches.feed(0, self.steps)
        self.costs: dict[str, Any] = {
            "compile_seconds": compile_seconds,
            "flops": _mean_flops(jaxpr, state, batch, self._first, self.steps),
            "bytes": traffic(self.hlo).memory // self.steps,
            "program_bytes": peak_bytes(compiled),
        }

    def __call__(self) -> float:
        start = time.perf_counter()
        self._state, _ = self._program(self._state, self._feed)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - start) / self.steps


def _mean_flops(jaxpr: Any, state: State, batch: Batch, first: int, steps: int) -> float:
    """Return the mean operations of a step over the `steps` steps from `first` on."""

    def known(step: int) -> list[Any]:
        # Integers and booleans decide what a step does: the step's number, for example.
        inputs = (dataclasses.replace(state, step=np.int32(step)), batch, jax.random.key(0))
        return [
            np.asarray(x) if x.ndim == 0 and getattr(x.dtype, "kind", "key") in "iub" else None
            for x in jax.tree.leaves(inputs)
        ]

    return float(np.mean([flops(jaxpr, known(first + i)) for i in range(steps)]))


def _peak_bytes() -> int:
    stats = jax.devices()[0].memory_stats()
    if stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def loop_seconds(recipe: Recipe, steps: int) -> float | None:
    """Return the seconds of a step of `genjax train`, with its data and records.

    Evaluations are not included. The result is None if the data are not here.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        total = RECORDS * steps
        recipe = dataclasses.replace(
            recipe, steps=total, log_interval=steps, save_interval=total, quality="latest"
        )
        try:
            with _quiet():
                train(recipe, run)
        except (UsageError, OSError) as error:
            log.warning("the loop of %s was not measured: %s", recipe.data, error)
            return None
        _, first, *_, last, _ = list(read_records(RunFolder(run)))
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of training inside the context."""
    propagate, log.propagate = log.propagate, False
    handlers, log.handlers = log.handlers, []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            yield
        finally:
            log.handlers = handlers
            log.propagate = propagate


def columns(limits: Limits) -> list[Column]:
    """Return the columns of the table."""

    def step(row: Row) -> str:
        times = [1e3 * seconds for seconds in row["seconds"]]
        return f"{np.median(times):.3g} ({min(times):.3g} to {max(times):.3g})"

    def seconds(row: Row) -> float:
        return float(np.median(row["seconds"]))

    def loop(row: Row) -> str:
        return "" if row["loop_seconds"] is None else f"{1e3 * row['loop_seconds']:.3g}"

    return [
        ("recipe", lambda row: row["recipe"]),
        ("batch", lambda row: str(row["batch"])),
        ("dtype", lambda row: row["dtype"]),
        ("devices", lambda row: str(row["devices"])),
        ("compile", lambda row: duration(row["compile_seconds"])),
        ("ms a step", step),
        ("images/s", lambda row: f"{row['batch'] / seconds(row):,.0f}"),
        ("loop, ms", loop),
        ("GFLOP", lambda row: f"{row['flops'] / 1e9:.3g}"),
        (
            "of product",
            lambda row: f"{100 * row['flops'] / seconds(row) / limits.product[row['dtype']]:.0f}%",
        ),
        (
            "of copy",
            lambda row: f"{100 * row['bytes'] / seconds(row) / limits.copy:.0f}%",
        ),
        ("program MB", lambda row: f"{row['program_bytes'] / 1e6:,.0f}"),
        ("peak MB", lambda row: f"{row['peak_bytes'] / 1e6:,.0f}"),
    ]


def ratio(counterpart: str, row: Row) -> str:
    """Format the time of a counterpart's step over ours: median, minimum and maximum."""
    if f"{counterpart}_seconds" not in row:
        return "none" if f"{counterpart}_note" in row else ""
    pairs = zip(row[f"{counterpart}_seconds"], row["seconds"], strict=True)
    ratios = [theirs / ours for theirs, ours in pairs]
    return f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
