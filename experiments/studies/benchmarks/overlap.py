"""What a streamed training's host does beside its steps, here and in another checkout.

    python experiments/studies/benchmarks/overlap.py --before CHECKOUT [--rounds N]

A GAN trains on made-up JPEGs of 64x64, none of which stays in memory, with a record every 5 steps
and a save every 20. Each step sleeps for 0.1 s: like an accelerator, it leaves the cores to the
host. Runs of the two checkouts alternate; then a trace of each tells how long the device had no
step to compute, and which share of the host's work was beside steps.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import genjax
from genjax.data.batches import Streamed
from genjax.models.gan import GanConfig
from genjax.run.checkpoint import Checkpoints
from genjax.trainer import loop
from genjax.trainer.writer import Writer

HERE = Path(__file__).parents[3]
SIZE, IMAGES, BATCH = 64, 500, 16
STEPS, RECORD, SAVE, SLEEP = 80, 5, 20, 0.1
# The host's work: where it is, and what it is called in the table.
WORK: list[tuple[Any, str, str]] = [
    (Streamed, "_read_batch", "read and decode a batch"),
    (Streamed, "feed", "take a feed"),
    (Writer, "record", "write a record"),
    (loop, "to_png", "encode a grid"),
    (Checkpoints, "save", "write a checkpoint"),
    (Writer, "report", "report"),
]
Span = tuple[float, float]


def train(images: Path, folder: Path) -> dict[str, float]:
    """Train, and return the milliseconds of a step between saves, and of one with its saves."""
    recipe = genjax.Recipe(
        family="gan",
        model=GanConfig(),
        data=f"folder:{images}",
        data_options=genjax.DataOptions(resident_gib=0),
        steps=STEPS,
        batch_size=BATCH,
        log_interval=RECORD,
        save_interval=SAVE,
    )
    recorded: list[float] = []
    record = Writer.record

    def timed(self: Writer, step: int, metrics: Any) -> dict[str, float]:
        recorded.append(time.monotonic())
        return record(self, step, metrics)

    Writer.record = timed  # type: ignore[method-assign]
    train_step = loop.train_step
    loop.train_step = lambda recipe: sleeping(train_step(recipe))
    genjax.train(recipe, folder / "run")
    whole = time.monotonic() - recorded[0]
    # The first record after a save has the save's time, or a part of it.
    steps = range(2 * RECORD, STEPS + 1, RECORD)
    plain = [
        after - before
        for step, (before, after) in zip(steps, itertools.pairwise(recorded), strict=True)
        if (step - RECORD) % SAVE and step % SAVE
    ]
    return {
        "step": 1e3 * statistics.median(plain) / RECORD,
        "whole": 1e3 * whole / (STEPS - RECORD),
    }


def sleeping(step: Any) -> Any:
    """Return a train step that sleeps, too."""

    def sleep(number: Any) -> Any:
        with jax.profiler.TraceAnnotation("device"):
            time.sleep(SLEEP)
        return number

    def run(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        state, metrics = step(state, batch, key)
        shape = jax.ShapeDtypeStruct(state.step.shape, state.step.dtype)
        number = jax.pure_callback(sleep, shape, state.step)
        return dataclasses.replace(state, step=number), metrics

    return run


def annotate(owner: Any, name: str, what: str) -> None:
    """Let each call of a function appear in traces."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def annotated(*args: Any, **options: Any) -> Any:
        with jax.profiler.TraceAnnotation(f"host: {what}"):
            return function(*args, **options)

    setattr(owner, name, annotated)


def read_trace(folder: Path) -> tuple[list[Span], dict[str, list[Span]]]:
    """Return when each step was on the device, and when the host did each kind of work, in ms."""
    (path,) = folder.rglob("*.xplane.pb")
    steps: list[Span] = []
    host: dict[str, list[Span]] = {what: [] for _, _, what in WORK}
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for event in (event for line in plane.lines for event in line.events):
            span = (event.start_ns / 1e6, (event.start_ns + event.duration_ns) / 1e6)
            if event.name == "device":
                steps.append(span)
            elif event.name.startswith("host: "):
                host[event.name.removeprefix("host: ")].append(span)
    return sorted(steps), host


def beside(spans: Sequence[Span], busy: Sequence[Span]) -> float:
    """Return the share of the spans' time in which the device was busy."""
    shared = sum(
        max(0.0, min(end, stop) - max(start, begin)) for start, end in spans for begin, stop in busy
    )
    return shared / sum(end - start for start, end in spans)


def trace(images: Path, folder: Path) -> dict[str, Any]:
    """Train in a trace, and return what it says."""
    for work in WORK:
        annotate(*work)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # of each call of Python, it would take most of the time
    with jax.profiler.trace(folder / "trace", profiler_options=options):
        train(images, folder)
    steps, host = read_trace(folder / "trace")
    waits = [after[0] - before[1] for before, after in itertools.pairwise(steps)]
    inside = statistics.median(wait for i, wait in enumerate(waits, 1) if i % RECORD)
    between = [wait - inside for i, wait in enumerate(waits, 1) if not i % RECORD and i % SAVE]
    saves = [wait - inside for i, wait in enumerate(waits, 1) if not i % SAVE]
    busy = [(steps[i][0], steps[i + RECORD - 1][1]) for i in range(0, STEPS, RECORD)]
    return {
        "wait": statistics.median(between),
        "wait at a save": statistics.median(saves),
        "work": {
            what: {
                "calls": len(spans),
                "ms": sum(end - start for start, end in spans) / len(spans),
                "beside": beside(spans, busy),
            }
            for what, spans in host.items()
        },
    }


def run(checkout: Path, what: str, images: Path) -> dict[str, Any]:
    """Return what this script finds in a process of its own, with a checkout's package."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(images.parent / "xla"), "PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, what, str(images)]
    done = subprocess.run(command, env=os.environ | cache, stdout=subprocess.PIPE)
    done.check_returncode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(checkouts: dict[str, Path], images: Path, rounds: int) -> None:
    """Print times and what the traces say, of each checkout."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for number in range(rounds + 1):
        for name, checkout in checkouts.items():
            found = run(checkout, "train", images)
            print(name, found, os.getloadavg(), file=sys.stderr)
            if number:  # the first one compiles
                times[name].append(found)
    for key in ("step", "whole"):
        for name, samples in times.items():
            values = sorted(each[key] for each in samples)
            median = statistics.median(values)
            print(f"{key}, {name}: {median:.1f} ms ({values[0]:.1f} to {values[-1]:.1f})")
    for name, checkout in checkouts.items():
        traced = run(checkout, "trace", images)
        print(name, {key: value for key, value in traced.items() if key != "work"})
        for what, each in traced["work"].items():
            print(f"  {what}: {each['calls']} x {each['ms']:.1f} ms, {each['beside']:.0%} beside")


def main() -> None:
    """Compare two checkouts, or measure this one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["train", "trace"])
    parser.add_argument("images", nargs="?", type=Path)
    parser.add_argument("--before", type=Path, default=HERE)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what:
            measure = {"train": train, "trace": trace}[options.what]
            print(json.dumps(measure(options.images, folder)))
            return
        images = folder / "images"
        images.mkdir()
        rng = np.random.default_rng(0)
        for i in range(IMAGES):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(images / f"{i:04}.jpg")
        checkouts = {"before": options.before.resolve(), "now": HERE}
        compare(checkouts, images, options.rounds)


if __name__ == "__main__":
    main()
