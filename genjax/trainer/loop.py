"""The training loop: batches, steps, records, evaluations and checkpoints, without callbacks.

Several processes run it together, each with its own devices; only the first one writes.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import logging
import math
import platform
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from PIL import Image

from genjax.data.batches import Batches, open_batches, read_some
from genjax.data.digest import change, digest_of
from genjax.data.names import some
from genjax.data.paths import is_remote
from genjax.data.processes import (
    ProcessLost,
    all_gather,
    first_before_others,
    is_first,
    run_on_first,
)
from genjax.data.source import Source
from genjax.data.sources import absolute, class_note
from genjax.data.values import VALUE, find, is_value, name_of
from genjax.evaluation.likelihood import health, likelihoods
from genjax.figures.grid import grid, to_png
from genjax.figures.sample import grid_labels, sample_state
from genjax.metrics.watch import Watch, few_images
from genjax.objectives.likelihood import bits_per_dim
from genjax.run.checkpoint import Checkpoints, write_atomically
from genjax.run.folder import RunConfig, RunFolder, create_run_folder
from genjax.run.model_file import is_model_file
from genjax.run.recipe import Recipe, load_recipe, to_json, train_step
from genjax.run.records import append_line, read_records
from genjax.run.sharding import Steps, as_array
from genjax.run.start import origin_of, start_from, unpack
from genjax.run.states import abstract_state, initial_state, open_split
from genjax.run.trained import Model, Result, Trained, load, path_of
from genjax.steps.freeze import check_frozen
from genjax.steps.optim import GIVEN, optimizers_of
from genjax.trainer.background import Background
from genjax.trainer.iterator import ModelAt, Record, Running, Training, drain
from genjax.trainer.log import log_to
from genjax.trainer.quality import QUALITY_IMAGES, SampleQuality
from genjax.trainer.signals import Stop, Stopped, stop_signals
from genjax.trainer.writer import NullWriter, Writer
from genjax.types import ImageSpec, Metrics, State, UsageError

log = logging.getLogger("genjax")


# Settings that change nothing of what is trained.
HARMLESS = {
    *("steps", "keep", "log_interval", "save_interval", "parallel", "data", "data_dir", "digest"),
    *("resident_gib", "quality", "quality_samples", "quality_weights"),
}

# A trained model to start from; on a command line a path.
Init = (
    Annotated[str | Path | Result | Trained, tyro.conf.arg(metavar="RUN|FILE", constructor=str)]
    | None
)


# Of Python alone: on a command line it is an option of the recipe.
Data = tyro.conf.Suppress[tyro.conf.Fixed[str | Source | None]]


class Diverged(ArithmeticError):
    """A loss or parameter is NaN or infinite; the run's checkpoints are from before that."""


def train(
    recipe: Annotated[Recipe | str | Path, tyro.conf.arg(name="", constructor=Recipe)],
    run: str | Path | None = None,
    data: Data = None,
    init: Init = None,
) -> Result:
    """Train from the beginning.

    Ctrl-C saves and stops; `genjax resume` continues.

    Args:
        recipe: A recipe, or the name or file of one, as `load_recipe` takes it.
        run: A new run folder, local or in a bucket, gs:// or s3://; all processes must share it.
            None: the first free one of `runs/FAMILY_DATA`, `runs/FAMILY_DATA-2`, ...
        data: Data in place of the recipe's: a name as the recipe takes it, or a source, such as
            `genjax.data.arrays` makes of arrays. None: those of the recipe.
        init: A run folder (its best checkpoint) or a model file whose weights and statistics to
            start with, where names and shapes are those of the recipe's model; the log names the
            others, which are fresh, as are optimizers and schedules. None: all are fresh.

    Raises:
        UsageError: The recipe, the data or `init` have a mistake, or the folder is in use.
        Diverged: A loss or parameter became NaN or infinite.
        SaveError: A checkpoint or a record could not be written.
        Stopped: A signal came; it is a KeyboardInterrupt. What was trained is saved.
        ProcessLost: Another process of the run is gone.
    """
    return drain(_begin(recipe, run, init, data, ahead=True))


def training(
    recipe: Recipe | str | Path,
    run: str | Path | None = None,
    data: str | Source | None = None,
    init: str | Path | Result | Trained | None = None,
) -> Training:
    """Train as `train` does, in a loop of one's own that sees each record; leaving it saves.

        for record in genjax.training("gan_digits"):
            print(record.step, record.metrics["d_loss"])

    Nothing is done before the first record is asked for. Args and errors are those of `train`.
    Steps wait for the body of the loop, so this takes a little longer. Several processes must leave
    their loops at the same record.

    Returns:
        An iterator over a `Record` at each `log_interval` and each save.
    """
    return Training(_begin(recipe, run, init, data, ahead=False))


def resume(
    run: Model,
    steps: tyro.conf.Suppress[tyro.conf.Fixed[int | None]] = None,
    recipe: Annotated[Recipe | None, tyro.conf.arg(name="", constructor=Recipe)] = None,
    accept_changed_data: bool = False,
    data: Data = None,
) -> Result:
    """Continue a run from its last good checkpoint, as if it had never stopped.

    With other settings, such as a batch size or learning rate, it goes on as a run that has had
    them from this step on. Settings on which the shapes of the state depend cannot change.

    Args:
        run: The run folder; or a model file with all that training needs, of `genjax export --all`,
            which goes on in a new one, `runs/NAME`.
        steps: The step to end at. None: that of the recipe.
        recipe: The recipe to go on with. None: the run's own.
        accept_changed_data: Go on although images came, went or changed since the run began.
        data: The data, if they were given as a value or have moved. None: those of the recipe.

    Raises:
        UsageError: There is no run, its data have changed, a setting cannot change, or another
            process trains in it.
        Diverged: A loss or parameter became NaN or infinite.
        SaveError: A checkpoint or a record could not be written.
        Stopped: A signal came; it is a KeyboardInterrupt. What was trained is saved.
        ProcessLost: Another process of the run is gone.
    """
    return drain(_go_on(run, steps, recipe, accept_changed_data, data))


def _begin(
    recipe: Recipe | str | Path,
    run: str | Path | None,
    init: Init,
    data: str | Source | None,
    ahead: bool,
) -> Running:
    """Train from the beginning; see `train` and `_train`."""
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    recipe = _with_absolute_paths(_with_data(recipe, data))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        origin = None if init is None else origin_of(load(init))
        source = _open(recipe)
        recipe = recipe.with_quality(source.spec)
        kind, _, name = recipe.data.rpartition(":")
        folder = create_run_folder(
            run, f"{recipe.family}_{kind if kind == VALUE else Path(name).stem}"
        )
        stack.enter_context(folder.locked())
        try:
            contents = source.contents(recipe.data_options.digest == "full")
            folder.write_contents(contents)
            name = run_on_first(lambda: secrets.token_hex(8))
            config = RunConfig(name, recipe, **_about(source, contents), init=origin)
            folder.write_config(config)
            return (yield from _run(folder, config, source, stop, None, ahead))
        except (UsageError, Stopped):
            # Refused or stopped before the first step: leave no folder behind.
            if is_first() and not read_records(folder):
                folder.path.rmtree()
            raise


def _go_on(
    run: Model,
    steps: int | None,
    recipe: Recipe | None,
    accept_changed_data: bool,
    data: str | Source | None,
) -> Running:
    """Continue a run; see `resume`."""
    path = path_of(run)
    folder = unpack(path) if is_model_file(path) else RunFolder(path)
    config = folder.read_config()
    recipe = _with_absolute_paths(_with_data(recipe or config.recipe, data))
    recipe = recipe if steps is None else dataclasses.replace(recipe, steps=steps)
    if recipe.quality == "auto":
        recipe = dataclasses.replace(recipe, quality=config.recipe.quality)
    if unknown := recipe.unknown_optimizers:
        players = ", ".join(f"{name}=..." for name in unknown)
        raise UsageError(
            f"{folder.path}: its optimizers were given in Python, and have to be given again: "
            f"genjax.resume(run, recipe=genjax.load(run).recipe.with_optimizers({players}))"
        )
    with stop_signals() as stop, folder.locked():
        source = _open(recipe)
        recipe = recipe.with_quality(source.spec)
        _refuse_other_shapes(config.recipe, config.spec, recipe, source.spec)
        contents = source.contents(recipe.data_options.digest == "full")
        changed = _data_change(folder, config, source, contents)
        if changed and not accept_changed_data:
            raise UsageError(
                f"{recipe.data} has changed: {changed}; to go on with these data, add "
                "--accept-changed-data; with those of before, if they are elsewhere: --data DATA"
            )
        config = dataclasses.replace(config, recipe=recipe)
        if not changed:
            return (yield from _run(folder, config, source, stop, None, ahead=True))
        config = dataclasses.replace(config, **_about(source, contents))
        return (yield from _run(folder, config, source, stop, contents, ahead=True))


def _with_data(recipe: Recipe, data: str | Source | None) -> Recipe:
    """Return a recipe with other data, which are a name or a value."""
    return recipe if data is None else dataclasses.replace(recipe, data=name_of(data))


def _about(source: Source, contents: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a `RunConfig` that describe data."""
    return {
        "spec": source.spec,
        "images": len(source),
        "class_names": tuple(map(str, source.class_names)),
        "data_digest": digest_of(contents),
    }


def _data_change(
    folder: RunFolder, config: RunConfig, source: Source, contents: Mapping[str, str]
) -> str:
    """Say how data differ from those of the run; empty if no difference is known."""
    found = change(folder.read_contents() or contents, contents)
    names, numbers = tuple(map(str, source.class_names)), map(str, range(len(source.class_names)))
    has_names = names in (config.class_names, tuple(numbers))  # or numbers in their place
    if found is None and has_names and (source.spec, len(source)) == (config.spec, config.images):
        return ""
    parts = [f"{len(source)} images, {config.images} when the run began"]
    if source.spec != config.spec:
        parts.append(f"{source.spec}, were {config.spec}")
    if not has_names:
        parts.append(f"classes {some(names)}, were {some(config.class_names)}")
    return ": ".join(parts + ([str(found)] if found else []))


def _changes(before: Recipe, after: Recipe) -> dict[str, str]:
    """Return, by the names of options, what differs, as `batch_size = 64 (was 32)`."""
    found = {}

    def add(old: dict[str, Any], new: dict[str, Any], prefix: str) -> None:
        for name, value in new.items():
            if isinstance(value, dict):
                is_flat = name in ("model", "data_options")
                add(old[name], value, prefix if is_flat else f"{prefix}{name}.")
            elif value != old[name]:
                found[prefix + name] = f"{prefix}{name} = {value!r} (was {old[name]!r})"

    add(to_json(before), to_json(after), "")
    return found


def _tell_changes(folder: RunFolder, recipe: Recipe, start: int, has_other_data: bool) -> None:
    """Log what changes from step `start` on, and record it with this start of the run."""
    changes = _changes(folder.read_config().recipe, recipe)
    texts = list(changes.values()) + (["other images"] if has_other_data else [])
    if texts:
        is_other = has_other_data or not changes.keys() <= HARMLESS
        other = "; another run from here on" if is_other else ""
        log.info("from step %d on: %s%s", start, ", ".join(texts), other)
    _write_environment(folder, start, texts)


def _tell_end(folder: RunFolder, recipe: Recipe, start: int) -> None:
    """Log that a run has made all its steps, and which settings it ignores."""
    others = _changes(folder.read_config().recipe, recipe).keys() - {"steps"}
    ignored = f", and nothing has changed: {', '.join(sorted(others))}" if others else ""
    log.info("%s is at step %d already%s; --steps says how far to go", folder.path, start, ignored)


def _first_state(config: RunConfig, spec: ImageSpec, key: jax.Array) -> State:
    """Return the state that a run begins with: fresh, or with the weights of a trained model."""
    state = initial_state(config.recipe, spec, key)
    return state if config.init is None else start_from(state, config.init)


def _refuse_other_shapes(
    began: Recipe, spec: ImageSpec, recipe: Recipe, new_spec: ImageSpec
) -> None:
    """Raise a `UsageError` if the state of a recipe has other shapes than that of the run."""
    if (began.model, spec) == (recipe.model, new_spec):
        return
    given: dict[str, Any] = dict.fromkeys(began.unknown_optimizers, GIVEN)
    recipe = recipe.with_optimizers(**given)  # their states are those of the checkpoint or not
    leaves = [
        [
            (jax.tree_util.keystr(path), leaf.shape, leaf.dtype)
            for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state(*each))
        ]
        for each in ((began, spec), (recipe, new_spec))
    ]
    if spec.shape != new_spec.shape or leaves[0] != leaves[1]:
        what = ", ".join(_changes(began, recipe).values()) or f"images of {new_spec} (were {spec})"
        raise UsageError(
            f"{what}: cannot change in a run, whose state has other shapes; a new run: genjax train"
        )


def _open(recipe: Recipe) -> Source:
    """Open the data; the first process does it alone first, in case they must be prepared."""
    with first_before_others("data opened"):
        options = recipe.data_options
        if options.test_split is not None and not options.test_split.startswith("train["):
            open_split(recipe, options.for_test)  # or it would be missed after the training
        return open_split(recipe, options)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Make the paths of the data absolute, so that a run can be resumed from any folder."""
    options = recipe.data_options
    if options.data_dir is not None and not is_remote(options.data_dir):
        data_dir = str(Path(options.data_dir).expanduser().resolve())
        options = dataclasses.replace(options, data_dir=data_dir)
    weights = recipe.quality_weights
    if weights is not None:
        weights = str(Path(weights).expanduser().resolve())
    return dataclasses.replace(
        recipe, data=absolute(recipe.data), data_options=options, quality_weights=weights
    )


def _run(
    folder: RunFolder,
    config: RunConfig,
    source: Source,
    stop: Stop,
    contents: Mapping[str, str] | None,
    ahead: bool,
) -> Running:
    """Train in a locked folder, and report the loss of another process by its own error.

    Args:
        folder: The folder.
        config: The config to go on with, which is written once the run can.
        source: The data.
        stop: Whether to stop.
        contents: What the data hold, to be written with it. None: what the folder says already.
        ahead: Whether the next steps run while those before are recorded. Then no record is
            yielded, as the state has gone on.

    Returns:
        The end of the training; before it, the records are yielded.
    """
    try:
        return (yield from _train(folder, config, source, stop, contents, ahead))
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise ProcessLost(
            f"another process is gone ({str(error).splitlines()[0][:200]}); when all are there "
            f"again, to go on from the last checkpoint: genjax resume {folder.path}"
        ) from error


def _train(
    folder: RunFolder,
    config: RunConfig,
    source: Source,
    stop: Stop,
    contents: Mapping[str, str] | None,
    ahead: bool,
) -> Running:
    """Train from the last good checkpoint, or from the beginning; see `_run`."""
    recipe = config.recipe
    data = find(recipe.data) if is_value(recipe.data) else None
    with contextlib.ExitStack() as stack:
        if is_first():
            stack.enter_context(log_to(folder.to_append(folder.log)))
        checkpoints = Checkpoints(
            *(folder.checkpoints, config.id, recipe.keep, recipe.quality),
            writable=True,
            since=config.same_data_since,
        )
        stack.callback(checkpoints.close)
        stack.enter_context(checkpoints.explaining())
        start = checkpoints.latest or 0
        if start >= recipe.steps:
            _tell_end(folder, recipe, start)
            return Result(folder.path, start, data)
        if contents is not None:
            config = dataclasses.replace(config, same_data_since=start)
            checkpoints.since = start
        init_key, step_key, sample_key = jax.random.split(jax.random.key(recipe.seed), 3)
        batches = _open_batches(source, recipe)
        steps = _compile(recipe, batches, source.spec, step_key)
        if start:
            state = steps.put(checkpoints.restore(start, steps.saved))
        else:
            state = steps.put(_first_state(config, source.spec, init_key))
        if is_first():
            _tell_changes(folder, recipe, start, contents is not None)
        evaluate = _Evaluator(folder, recipe, source, sample_key)
        if contents is not None:
            folder.write_contents(contents)
        folder.write_config(config)  # it can be trained as it is
        writer = _open_writer(folder, recipe, start)
        stack.callback(writer.close)
        background = stack.enter_context(Background())
        recorder = _Recorder(recipe.model, source.spec, writer, background)
        saver = _Saver(recipe.quality, checkpoints, background, steps, evaluate, writer.report)
        _tell_start(folder, recipe, len(source), start)
        length = call_length(recipe, batches.max_steps)
        stop.begin()
        step = start
        while step < recipe.steps:
            first, step = step, step - step % recipe.log_interval + recipe.log_interval
            step = min(step, recipe.steps)
            # Those before are recorded meanwhile, so that the devices do not wait for it.
            state, taken = _take_steps(steps, state, batches, first, step, length, recorder.record)
            recorder.taken = taken
            is_due = step % recipe.save_interval == 0 or step == recipe.steps
            if is_due:
                taken.means()  # raises if the state is not finite
            saver.measure(state, step, is_due)
            # A signal to one process stops all processes at the same step.
            signal = _strongest(stop.signal)
            if is_due or signal or not ahead:
                recorder.record(saver.quality)
            if is_due or signal:
                saver.save(state, step)
            if signal:
                background.wait()
                raise Stopped(signal, Result(folder.path, step, data))
            if not ahead:
                model = ModelAt(config, folder, step, saver.quality, steps, state, data)
                try:
                    yield Record(folder.path, step, *recorder.last, saver.image, model)
                except GeneratorExit:
                    if not is_due:
                        saver.save(state, step)
                    background.wait()
                    raise
                model.is_gone = True
        return Result(folder.path, step, data)


@dataclasses.dataclass
class _Saver:
    """What is saved of a step: the checkpoint and, where they are due, its grid and quality.

    Attributes:
        best: The metric that picks the best checkpoint.
        image: The grid of the step that was measured last; None where none was due.
        quality: Its metrics; empty where none were due.
    """

    best: str
    checkpoints: Checkpoints
    background: Background
    steps: Steps
    evaluate: "_Evaluator"
    report: Callable[[], None]
    image: Image.Image | None = None
    quality: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def measure(self, state: State, step: int, is_due: bool) -> None:
        """Draw the grid of a state and measure its quality, if they are due."""
        self.image, self.quality = None, {}
        if is_due:
            whole = self.steps.get(state)
            self.image = self.evaluate.grid(whole)
            self.quality = _only_finite(self.evaluate(whole), step)

    def save(self, state: State, step: int) -> None:
        """Start to write what belongs to the step that was measured last."""
        writes: list[Callable[[], None]] = []
        if self.image is not None:
            writes.append(functools.partial(self.evaluate.write, self.image, step))
        quality = dict(self.quality) if self.best in self.quality else None
        saved = self.steps.to_save(state)
        writes.append(functools.partial(self.checkpoints.save, step, saved, quality))
        self.background.start([*writes, self.report])


def _tell_start(folder: RunFolder, recipe: Recipe, images: int, start: int) -> None:
    log.info("training in %s from step %d", folder.path, start)
    for alarm in few_images(recipe.model, images):
        log.warning("%s", alarm.warning)
    for name, config in optimizers_of(recipe.model):
        if 0 < config.decay_steps < recipe.steps:
            log.warning(
                "the step size of %s is 0 from step %d on, and training goes on to step %d: "
                "wanted --%s.decay-steps %d?",
                *(name, config.decay_steps, recipe.steps, name, recipe.steps),
            )
    if jax.process_count() > 1:
        log.info(
            "%d processes: should one be lost the others end; to go on: genjax resume %s",
            jax.process_count(),
            folder.path,
        )


def _compile(recipe: Recipe, batches: Batches, spec: ImageSpec, key: jax.Array) -> Steps:
    like = abstract_state(recipe, spec)
    check_frozen(recipe.freeze, like)
    return Steps(
        train_step(recipe),
        batches,
        recipe.batch_size,
        key,
        recipe.parallel,
        like,
        deterministic=recipe.deterministic,
    )


def _open_batches(source: Source, recipe: Recipe) -> Batches:
    log.info("reading %s images of %s", f"{len(source):,}", recipe.data)
    for note in (*source.notes, *class_note(source)):
        log.info("%s", note)
    return open_batches(source, recipe.batch_size, recipe.seed, recipe.data_options)


def _open_writer(folder: RunFolder, recipe: Recipe, start: int) -> Writer | NullWriter:
    """Open the records of a run from a step on."""
    if not is_first():
        return NullWriter()
    if not start and (lost := read_records(folder)):
        log.warning(
            "no checkpoint is left: training begins anew, and its records, up to step %d, are "
            "overwritten",
            lost[-1]["step"],
        )
    return Writer(folder, start, recipe.steps, recipe.batch_size)


def _only_finite(metrics: dict[str, float], step: int) -> dict[str, float]:
    """Leave out metrics that are NaN or infinite, which must not decide what is the best."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            log.warning("step %d: %s is %s, and left out", step, name, value)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _strongest(signal: Signals | None) -> Signals | None:
    """Return on all processes the largest signal that any of them has received, or None."""
    number = int(all_gather(np.array(signal or 0)).max())
    if number and signal is None:
        log.warning("%s in another process: saving, then stopping", Signals(number).name)
    return Signals(number) if number else None


def call_length(recipe: Recipe, most: int) -> int:
    """Return the number of steps of a compiled call, at most `most`.

    If the steps of a record take several calls, all calls of the run have the same length, because
    each length is a program of its own, which may take minutes to compile.
    """
    if recipe.log_interval <= most:
        return recipe.log_interval
    common = math.gcd(recipe.log_interval, recipe.steps)
    return max(length for length in range(1, most + 1) if common % length == 0)


def _take_steps(
    steps: Steps,
    state: State,
    batches: Batches,
    first: int,
    last: int,
    length: int,
    meanwhile: Callable[[], None],
) -> tuple[State, "_Taken"]:
    """Start the steps after `first` up to `last`, in calls of `length` steps.

    Args:
        steps: The compiled steps.
        state: The state after step `first`.
        batches: The source of batches.
        first: The step before the first.
        last: The last step.
        length: Steps in a call.
        meanwhile: What to do whenever a call has started.

    Returns:
        The state after the steps, and what they measure, both of which may not be there yet.
    """
    calls = []
    for start in range(first, last, length):
        feed = batches.feed(start, min(length, last - start))
        state, metrics = steps.start(state, feed)
        calls.append(metrics)
        meanwhile()
    return state, _Taken(first, last, calls, _leaf_names(state), steps.finite_leaves(state))


def _leaf_names(state: State) -> list[str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


@dataclasses.dataclass(frozen=True)
class _Taken:
    """Steps that have started, and what they measure, on the devices.

    Attributes:
        first: The step before the first.
        last: The last step.
        calls: The metrics of each call.
        leaves: The names of the leaves of the state after them.
        finite: Whether each of these is finite, bool [leaves].
    """

    first: int
    last: int
    calls: list[Metrics]
    leaves: list[str]
    finite: jax.Array

    def means(self) -> dict[str, float]:
        """Wait for the steps, and return the mean of each metric over those that measured it.

        Raises:
            Diverged: A metric or a leaf of the state is not finite.
        """
        metrics = {
            name: np.ma.concatenate([as_array(call[name]) for call in self.calls])
            for name in self.calls[0]
        }
        _refuse_non_finite(metrics, self.first, self.leaves, np.asarray(self.finite))
        return {k: float(np.mean(v)) for k, v in metrics.items() if np.ma.count(v)}


class _Recorder:
    """The records of steps, each made once its steps have ended and the next ones run.

    Attributes:
        taken: Steps that are to be recorded; None if all are.
        last: The last record, and what the log warned of.
    """

    def __init__(
        self, model: Any, spec: ImageSpec, writer: Writer | NullWriter, background: Background
    ):
        self._writer, self._watch, self._background = writer, Watch(model, spec), background
        for record in writer.records:
            self._watch(record)
        self.taken: _Taken | None = None
        self.last: tuple[Mapping[str, float], Sequence[str]] = ({}, ())

    def record(self, quality: Mapping[str, float] | None = None) -> None:
        """Wait for the steps that are to be recorded, if there are any, and record them.

        It waits for the save before, too: a kill loses no more recorded steps than lie between two
        saves, and only one thread at a time uses the writer.

        Args:
            quality: Metrics of the state after them; None if they were not measured.

        Raises:
            Diverged: One of the steps did; see `_Taken.means`.
            SaveError: The save before failed.
        """
        if self.taken is None:
            return
        step, record = self.taken.last, self.taken.means() | dict(quality or {})
        self.taken = None
        self._background.wait()
        warnings = [alarm.warning for alarm in self._watch(record)]
        self.last = self._writer.record(step, record), warnings
        for warning in warnings:
            log.warning("step %d: %s", step, warning)


def _refuse_non_finite(
    metrics: dict[str, np.ndarray], first: int, leaves: Sequence[str], finite: np.ndarray
) -> None:
    """Raise `Diverged` if a metric or a leaf of the state is not finite, with its name and step."""
    ok = {name: np.isfinite(np.ma.filled(values, 0)) for name, values in metrics.items()}
    bad = {name: int(np.argmin(values)) for name, values in ok.items() if not values.all()}
    if bad:
        index = min(bad.values())
        names = ", ".join(f"{name} = {metrics[name][i]}" for name, i in bad.items() if i == index)
        raise Diverged(f"at step {first + index + 1}: {names}")
    for name, is_finite in zip(leaves, finite, strict=True):
        if not is_finite:
            raise Diverged(f"after step {first + len(next(iter(metrics.values())))}: {name}")


class _Evaluator:
    """The evaluation at each save: a grid from fixed latents, quality metrics, signs of trouble.

    Samples are compared with images of the training data. Likelihoods are those of images of
    `test_split` or, without one, of the training data.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, source: Source, key: jax.Array):
        self._folder, self._recipe = folder.samples, recipe
        self._grid_key, self._samples_key, self._likelihood_key = jax.random.split(key, 3)
        self._data = read_some(source, QUALITY_IMAGES, recipe.seed)
        self._quality = SampleQuality(recipe, source, np.asarray(self._data.images))
        if is_first():
            self._folder.mkdir(exist_ok=True)
        if recipe.functions.evaluate is None:
            return
        if recipe.data_options.test_split is None:
            log.info("no test_split is set: eval_nll is that of images that are trained on")
        else:
            source = open_split(recipe, recipe.data_options.for_test)
        self._batch = read_some(source, QUALITY_IMAGES, recipe.seed)

    def grid(self, state: State) -> Image.Image:
        """Draw the grid of a state."""
        labels, columns = grid_labels(self._recipe, state.spec)
        return grid(sample_state(self._recipe, state, self._grid_key, labels), columns)

    def write(self, image: Image.Image, step: int) -> None:
        """Write the grid of a step."""
        if is_first():
            write_atomically(self._folder / f"step_{step:08d}.png", to_png(image))

    def __call__(self, state: State) -> dict[str, float]:
        """Return the metrics of a state."""
        metrics = self._quality(state, self._samples_key)
        if self._recipe.functions.evaluate is not None:
            found = likelihoods(self._recipe, state, [self._batch], self._likelihood_key)
            nll = float(np.mean(found.nll))
            metrics["eval_nll"] = nll
            metrics["eval_bits_per_dim"] = bits_per_dim(nll, math.prod(state.spec.shape))
        for name, values in health(self._recipe, state, self._data).items():
            metrics[name] = float(np.max(values))
        return metrics


def _write_environment(folder: RunFolder, step: int, changes: Sequence[str]) -> None:
    packages = ("genjax-models", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    values = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "changes": changes,
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processes": jax.process_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    append_line(folder, folder.environment, values)
