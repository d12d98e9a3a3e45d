"""The training loop: batches, steps, records, evaluations and checkpoints, without callbacks.

Several processes run it together, each with its own devices; only the first one writes.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import logging
import math
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from signal import signal as set_handler
from types import FrameType
from typing import Annotated

import jax
import numpy as np
import tyro
from etils import epath

from genjax.data.batches import Batches, open_batches, read_batch
from genjax.data.digest import change, digest_of
from genjax.data.processes import ProcessLost, all_gather, first_before_others, is_first
from genjax.data.sources import DataOptions, Source, absolute, class_note, open_source
from genjax.evaluation.evaluate import health, likelihoods
from genjax.figures.grid import grid, to_png
from genjax.figures.sample import grid_labels, sample_state
from genjax.metrics.energy import energy_distance
from genjax.metrics.watch import ENERGY_DISTANCE, Watch
from genjax.objectives.likelihood import bits_per_dim
from genjax.run.checkpoint import Checkpoints, write_atomically
from genjax.run.folder import RunFolder, create_run_folder
from genjax.run.options import Run
from genjax.run.recipe import Recipe, load_recipe
from genjax.run.sharding import Steps
from genjax.run.states import abstract_state, initial_state
from genjax.training.writer import NullWriter, Writer
from genjax.types import Batch, State, UsageError

log = logging.getLogger("genjax")

# Number of samples, and of images, for the metrics at each save.
QUALITY_IMAGES = 1000


class Diverged(ArithmeticError):
    """A loss or parameter is NaN or infinite; the run's checkpoints are from before that."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The end of a training.

    Attributes:
        run: The run folder.
        step: The last step, which is saved.
        signal: The signal that stopped training early, or None.
    """

    run: epath.Path
    step: int
    signal: Signals | None


def train(
    recipe: Annotated[Recipe | str, tyro.conf.arg(name="", constructor=Recipe)],
    run: str | Path | None = None,
) -> Result:
    """Train from the beginning. Ctrl-C saves and stops; `genjax resume` continues.

    Args:
        recipe: A recipe, or the name or file of one, as `load_recipe` takes it.
        run: A new run folder, local or in a bucket, `gs://BUCKET/RUN`; all processes must share it.
            None: the first free one of `runs/FAMILY_DATA`, `runs/FAMILY_DATA-2`, ...

    Raises:
        UsageError: The recipe or the data have a mistake, or the folder is in use.
        Diverged: A loss or parameter became NaN or infinite.
        SaveError: A checkpoint could not be written.
        ProcessLost: Another process of the run is gone.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = dataclasses.replace(
        recipe, data=absolute(recipe.data), data_options=_absolute_data_dir(recipe)
    )
    source = _open(recipe)
    name = Path(recipe.data.rpartition(":")[2]).stem
    folder = create_run_folder(run, f"{recipe.family}_{name}")
    with folder.locked():
        try:
            contents = source.contents(recipe.data_options.digest == "full")
            folder.write_contents(contents)
            names = source.class_names
            folder.write_config(recipe, source.spec, len(source), names, digest_of(contents))
            return _run(folder, recipe, source)
        except UsageError:
            # The recipe was refused before the first step: leave no folder behind.
            if is_first() and not folder.metrics.exists():
                folder.path.rmtree()
            raise


def resume(run: Run, steps: int | None = None) -> Result:
    """Continue a run from its last good checkpoint, as if it had never stopped.

    Args:
        run: The run folder.
        steps: The step to end at. None: that of the recipe.

    Raises:
        UsageError: There is no run, its data have changed, or another process trains in it.
        Diverged: A loss or parameter became NaN or infinite.
        SaveError: A checkpoint could not be written.
        ProcessLost: Another process of the run is gone.
    """
    folder = RunFolder(run)
    recipe, spec, images = folder.read_config()
    with folder.locked():
        source = _open(recipe)
        now = source.contents(recipe.data_options.digest == "full")
        before = folder.read_contents() or now
        if found := change(before, now):
            raise UsageError(
                f"{recipe.data} has changed: {len(source)} images, {images} when the run began: "
                f"{found}"
            )
        if (source.spec, len(source)) != (spec, images):
            raise UsageError(
                f"{recipe.data} has changed: {len(source)} images of {source.spec}, "
                f"the run began with {images} of {spec}"
            )
        if steps is not None:
            recipe = dataclasses.replace(recipe, steps=steps)
            names = source.class_names
            folder.write_config(recipe, spec, images, names, digest_of(before))
        return _run(folder, recipe, source)


def _open(recipe: Recipe) -> Source:
    """Open the data; the first process does it alone first, in case they must be prepared."""
    with first_before_others("data opened"):
        return open_source(recipe.data, recipe.data_options)


def _absolute_data_dir(recipe: Recipe) -> DataOptions:
    options = recipe.data_options
    if options.data_dir is None or "://" in options.data_dir:
        return options
    return dataclasses.replace(options, data_dir=str(Path(options.data_dir).expanduser().resolve()))


def _run(folder: RunFolder, recipe: Recipe, source: Source) -> Result:
    """Train in a locked folder, and report the loss of another process by its own error."""
    try:
        return _train(folder, recipe, source)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise ProcessLost(
            f"another process is gone ({str(error).splitlines()[0][:200]}); when all are there "
            f"again, to go on from the last checkpoint: genjax resume {folder.path}"
        ) from error


def _train(folder: RunFolder, recipe: Recipe, source: Source) -> Result:
    """Train from the last good checkpoint, or from the beginning."""
    with contextlib.ExitStack() as stack:
        if is_first():
            stack.enter_context(_log_file(folder))
            _write_environment(folder)
        checkpoints = Checkpoints(folder.checkpoints, recipe.keep, recipe.quality, writable=True)
        stack.callback(checkpoints.close)
        start = checkpoints.latest or 0
        if start >= recipe.steps:
            log.info("%s is at step %d already; --steps says how far to go", folder.path, start)
            return Result(folder.path, start, None)
        init_key, step_key, sample_key = jax.random.split(jax.random.key(recipe.seed), 3)
        log.info("reading %s images of %s", f"{len(source):,}", recipe.data)
        for note in (*source.notes, *class_note(source)):
            log.info("%s", note)
        batches = open_batches(source, recipe.batch_size, recipe.seed, recipe.data_options)
        steps = Steps(
            functools.partial(recipe.functions.step, recipe.model),
            batches,
            recipe.batch_size,
            step_key,
            recipe.parallel,
            abstract_state(recipe, source.spec),
        )
        if start:
            state = steps.put(checkpoints.restore(start, steps.saved))
        else:
            state = steps.put(initial_state(recipe, source.spec, init_key))
        evaluate = _Evaluator(folder, recipe, source, sample_key)
        writer: Writer | NullWriter = NullWriter()
        watch = Watch()
        if is_first():
            writer = Writer(folder, start, recipe.steps, recipe.batch_size)
            stack.callback(writer.close)
            for record in writer.records:
                watch(record)

        log.info("training in %s from step %d", folder.path, start)
        if jax.process_count() > 1:
            log.info(
                "%d processes: should one be lost the others end; to go on: genjax resume %s",
                jax.process_count(),
                folder.path,
            )
        stop = stack.enter_context(_stop_signals())
        step, signal = start, None
        while step < recipe.steps and signal is None:
            first, step = (
                step,
                min(step - step % recipe.log_interval + recipe.log_interval, recipe.steps),
            )
            state, metrics = _take_steps(steps, state, batches, first, step)
            _refuse_non_finite(metrics, first, state, steps.finite_leaves)
            record = {
                name: float(np.mean(values))
                for name, values in metrics.items()
                if np.ma.count(values)
            }
            quality = None
            if step % recipe.save_interval == 0 or step == recipe.steps:
                quality = evaluate(steps.get(state), step)
                record |= quality
            writer.record(step, record)
            for warning in watch(record):
                log.warning("step %d: %s", step, warning)
            # A signal to one process stops all processes at the same step.
            signal = _strongest(stop.signal)
            if quality or signal:
                checkpoints.save(step, steps.to_save(state), quality)
                writer.report()
        return Result(folder.path, step, signal)


def _strongest(signal: Signals | None) -> Signals | None:
    """Return on all processes the largest signal that any of them has received, or None."""
    number = int(all_gather(np.array(signal or 0)).max())
    if number and signal is None:
        log.warning("%s in another process: saving, then stopping", Signals(number).name)
    return Signals(number) if number else None


def _take_steps(
    steps: Steps, state: State, batches: Batches, first: int, last: int
) -> tuple[State, dict[str, np.ndarray]]:
    """Take the steps after `first` up to `last`, in calls of at most `batches.max_steps`.

    Returns:
        The new state, and the metrics of all steps, [steps].
    """
    parts = []
    for start in range(first, last, batches.max_steps):
        feed = batches.feed(start, min(batches.max_steps, last - start))
        state, metrics = steps(state, feed)
        parts.append(metrics)
    return state, {name: np.ma.concatenate([part[name] for part in parts]) for name in parts[0]}


def _refuse_non_finite(
    metrics: dict[str, np.ndarray],
    first: int,
    state: State,
    finite_leaves: Callable[[State], np.ndarray],
) -> None:
    """Raise `Diverged` if a metric or a leaf of the state is not finite, with its name and step."""
    ok = {name: np.isfinite(np.ma.filled(values, 0)) for name, values in metrics.items()}
    bad = {name: int(np.argmin(values)) for name, values in ok.items() if not values.all()}
    if bad:
        index = min(bad.values())
        names = ", ".join(f"{name} = {metrics[name][i]}" for name, i in bad.items() if i == index)
        raise Diverged(f"at step {first + index + 1}: {names}")
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    for (path, _), finite in zip(leaves, finite_leaves(state), strict=True):
        if not finite:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise Diverged(f"after step {first + len(next(iter(metrics.values())))}: {name}")


class _Evaluator:
    """The evaluation at each save: a grid from fixed latents, quality metrics, signs of trouble.

    Samples are compared with images of the training data. Likelihoods are those of images of
    `test_split` or, without one, of the training data.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, source: Source, key: jax.Array):
        self._folder, self._recipe = folder.samples, recipe
        self._grid_key, self._samples_key, self._likelihood_key = jax.random.split(key, 3)
        self._data = _some_images(source, recipe.seed)
        self._distance = jax.jit(lambda x, y: energy_distance(x / 127.5, y / 127.5))
        if is_first():
            self._folder.mkdir(exist_ok=True)
        if recipe.functions.evaluate is None:
            return
        if recipe.data_options.test_split is None:
            log.info("no test_split is set: eval_nll is that of images that are trained on")
        else:
            source = open_source(recipe.data, recipe.data_options.for_test)
        self._batch = _some_images(source, recipe.seed)

    def __call__(self, state: State, step: int) -> dict[str, float]:
        labels, columns = grid_labels(self._recipe, state.spec)
        images = sample_state(self._recipe, state, self._grid_key, labels)
        if is_first():
            write_atomically(self._folder / f"step_{step:08d}.png", to_png(grid(images, columns)))
        samples = sample_state(self._recipe, state, self._samples_key, QUALITY_IMAGES)
        metrics = {ENERGY_DISTANCE: float(self._distance(samples, self._data.images))}
        if self._recipe.functions.evaluate is not None:
            found = likelihoods(self._recipe, state, self._batch, self._likelihood_key)
            nll = float(np.mean(found.nll))
            metrics[self._recipe.quality] = nll
            metrics["eval_bits_per_dim"] = bits_per_dim(nll, math.prod(state.spec.shape))
        for name, values in health(self._recipe, state, self._data).items():
            metrics[name] = float(np.max(values))
        return metrics


def _some_images(source: Source, seed: int) -> Batch:
    chosen = np.random.default_rng(seed).permutation(len(source))[:QUALITY_IMAGES]
    return read_batch(source, np.sort(chosen))


@dataclasses.dataclass
class _Stop:
    signal: Signals | None = None


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Catch Ctrl-C and SIGTERM inside the context; after the first one, the old handlers are back.

    A thread other than the main one cannot set handlers, so there nothing is caught.
    """
    stop = _Stop()
    caught = (SIGINT, SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        stop.signal = Signals(number)
        log.warning("%s: saving, then stopping; once more to stop at once", stop.signal.name)
        for each, handler in before.items():
            set_handler(each, handler)

    before = {each: set_handler(each, ask) for each in caught}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            set_handler(each, handler)


@contextlib.contextmanager
def _log_file(folder: RunFolder) -> Iterator[None]:
    """Write log messages to the run's log file too, inside the context."""
    level = log.level
    log.setLevel(logging.INFO)
    handler = logging.FileHandler(folder.to_append(folder.log))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def _write_environment(folder: RunFolder) -> None:
    packages = ("genjax-models", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    values = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processes": jax.process_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    with folder.to_append(folder.environment).open("a") as file:
        file.write(json.dumps(values) + "\n")
