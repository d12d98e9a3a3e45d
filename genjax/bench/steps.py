"""`genjax bench steps`: whole training steps, the loop around them, and rivals beside them."""

import contextlib
import dataclasses
import functools
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
from genjax.run.recipe import Recipe, load_recipe
from genjax.run.records import read_records
from genjax.run.sharding import Steps
from genjax.run.states import abstract_state, initial_state
from genjax.training.loop import train
from genjax.types import Batch, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# Of each family the recipe that two CPU cores can train.
RECIPES = (
    "gan_mnist",
    "dcgan_mnist",
    "wgan_digits",
    "wgan_gp_mnist",
    "vae_mnist",
    "glow_mnist",
    "biggan_digits",
    "stylegan_mnist",
    "stylegan2_mnist",
)
# What is timed beside a recipe's steps: of the recipe, its images' shape and the steps of a call it
# makes a function that takes so many steps and gives the seconds of one. A `UsageError` says why it
# cannot.
Rival = Callable[[Recipe, ImageSpec, int], Callable[[], float]]
# Images to train on, made up: only their shape matters.
IMAGES = 1024
# Steps in one call: whole turns of all that comes only now and then (5 for a critic, 16 for R1).
STEPS = (16, 80, 400)
# The most that should take no longer than about this, at a third of the machine's products.
CALL_SECONDS, SHARE = 5.0, 0.3
# The end-to-end loop: so many records, of which the first and the last are left out, as what comes
# before and after them is no step: compiling, and an evaluation.
RECORDS = 6


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured of each recipe."""

    dtype: Dtype | None = None
    """Compute type. None: the recipe's."""
    batch_size: int | None = None
    """Images a step. None: the recipe's."""
    rounds: int = 5
    """Samples of each; the table has medians, the least and the most."""
    loop: bool = True
    """Also measure `genjax train`, on the recipe's own data."""
    data_dir: str | None = None
    """Where tfds data lie."""
    rivals: Annotated[Mapping[str, Rival], tyro.conf.Suppress] = dataclasses.field(
        default_factory=dict
    )
    """What runs beside it in turn, by name; functions that a new process can import."""


def bench_steps(
    recipes: Positional[Sequence[str]] = RECIPES,
    options: Annotated[Options, Flat] = Options(),
    devices: Sequence[int] = (1,),
) -> Results:
    """Time whole training steps of recipes, compiled, with all metrics, and the loop around them.

    Args:
        recipes: Names.
        options: What is measured of each.
        devices: On how many, a row for each; on a CPU they are simulated.

    Returns:
        Rows of `recipe`, `batch`, `dtype`, `devices`; `seconds` of a step and `compile_seconds`;
        `loop_seconds` of a step of `genjax train` (None where its data are not here); `flops` of a
        step on average over those that were run, `bytes` that a device reads and writes in it,
        `program_bytes` of memory that the compiler plans, `peak_bytes` that the process has used
        (on an accelerator: that was in use there). Of each rival `NAME_seconds` of its step, or
        `NAME_note`, which says why there are none.

    Raises:
        UsageError: An unknown recipe, or an option that does not fit one.
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
    """The compute type of its model."""
    return str(getattr(recipe.model, "dtype", "float32"))


def _in_process(devices: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process of its own: what it compiles, and its memory, go with it."""
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
    spec = expected_spec(recipe.data, recipe.data_options)
    with tempfile.TemporaryDirectory() as folder:
        # The program is compiled once to be timed and looked at, and then found there to be run.
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        trainer = Trainer(recipe, spec, devices, limits)
        row: Row = {
            "recipe": name,
            "batch": recipe.batch_size,
            "dtype": dtype_of(recipe),
            "devices": devices,
            **trainer.costs,
        }
        trainer()
        row["peak_bytes"] = _peak_bytes()
        runners: dict[str, Callable[[], float]] = {"genjax": trainer}
        for rival, make in options.rivals.items():
            try:
                runners[rival] = make(recipe, spec, trainer.steps)
            except UsageError as error:
                row[f"{rival}_note"] = str(error)
        times = alternating_times(runners, options.rounds)
        row["seconds"] = times.pop("genjax")
        row |= {f"{rival}_seconds": values for rival, values in times.items()}
        row["loop_seconds"] = None
        if options.loop and devices == 1:
            row["loop_seconds"] = loop_seconds(recipe, trainer.steps)
    return row


class Trainer:
    """A recipe's compiled steps on made-up images; a call gives the seconds of one step.

    Training is near its end, where a network that grows is whole.

    Attributes:
        steps: In one call.
        hlo: The text of the compiled program.
        costs: `compile_seconds`, `flops`, `bytes` and `program_bytes`.
    """

    def __init__(self, recipe: Recipe, spec: ImageSpec, devices: int, limits: Limits):
        rng = np.random.default_rng(0)
        count = max(IMAGES, recipe.batch_size)
        images = rng.integers(0, 256, (count, *spec.shape), np.uint8)
        labels = rng.integers(0, max(1, spec.classes), count).astype(np.int32)
        batches = Resident(images, labels, recipe.batch_size, seed=0)
        step = functools.partial(recipe.functions.step, recipe.model)
        like = abstract_state(recipe, spec)
        batch = Batch(images[: recipe.batch_size], labels[: recipe.batch_size])
        jaxpr = jax.make_jaxpr(step)(like, batch, jax.random.key(0))
        seconds = flops(jaxpr) / (SHARE * limits.product[dtype_of(recipe)])
        self.steps = max([n for n in STEPS if n * seconds <= CALL_SECONDS], default=STEPS[0])
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
        # So far on that it ends on whole turns.
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
    """Of a step, whose turn it is known."""

    def known(step: int) -> list[Any]:
        # Numbers that say what a step does: how many there were, and whether something is done.
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
    """Of a step of `genjax train`, with its data and records, between evaluations.

    None where the data are not here.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        total = RECORDS * steps
        recipe = dataclasses.replace(recipe, steps=total, log_interval=steps, save_interval=total)
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
    """Without what training says as it goes."""
    propagate, log.propagate = log.propagate, False
    handlers, log.handlers = log.handlers, []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            yield
        finally:
            log.handlers = handlers
            log.propagate = propagate


def columns(limits: Limits) -> list[Column]:
    """Of the table."""

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


def ratio(rival: str, row: Row) -> str:
    """Tell how long a rival's step takes over ours: the median, the least and the most."""
    if f"{rival}_seconds" not in row:
        return "none" if f"{rival}_note" in row else ""
    pairs = zip(row[f"{rival}_seconds"], row["seconds"], strict=True)
    ratios = [theirs / ours for theirs, ours in pairs]
    return f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
