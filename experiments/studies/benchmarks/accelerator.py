"""Measure what only an accelerator can show: one command, at most nine minutes on one GPU.

    pip install -e '.[test,bench]'
    python -m experiments.studies.benchmarks.accelerator --output DIR --data-dir TFDS --cifar ZIP

In this order, and each at once in DIR, as JSON and in `page.md`:

1. the machine, and its limits: a copy, and matrix products;
2. the device tests, `pytest -m device`, and beside them trainings: IWAE and Glow on MNIST,
   StyleGAN2-ADA on CIFAR-10;
3. StyleGAN2's blurs in both of their forms;
4. the steps of every family at real sizes, in float32 and bfloat16, beside PyTorch's, eager and
   compiled, with convolutions channels-last and products of float32 in TF32, as ours;
5. with the time left, the trainings.

What lies in DIR already is not measured again, and the trainings go on: after an interruption run
the same command. At the end the page is written into BENCHMARKS.md. `--rehearse` does all of it
with tiny sizes, which a CPU can.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experiments.studies.benchmarks import blurs
from experiments.studies.benchmarks.page import write_part
from experiments.studies.benchmarks.pytorch.steps import columns, compiled, eager
from genjax.bench import steps
from genjax.bench.results import Results, Row, load, machine_line, notes, save, table
from genjax.bench.timing import Limits, machine, measure_limits
from genjax.run.folder import RunFolder
from genjax.run.recipe import Recipe, load_recipe
from genjax.run.records import read_records

DTYPES = ("float32", "bfloat16")
# Seconds that the tests may take, that a call of many steps should take, that a process may take to
# compile its steps and to time them, that a training needs to be worth it and to save at its end.
TEST_SECONDS, CALL_SECONDS, COMPILE_SECONDS = 120, 0.3, 90
TRAIN_SECONDS, SAVE_SECONDS = 40, 20
ROUNDS = 3
# Cases that compile at the same time; more would disturb one another as each measures which
# algorithms are the fastest.
PROCESSES = 3
# Cases whose step is measured with `torch.compile` too. The others would compile for minutes, or
# have a second-order gradient, which it cannot compile.
COMPILED = ("gan", "vae", "dcgan")

# For each case, by name, its recipe and the fields that are changed.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae_mnist_iwae": ("vae_mnist_iwae", {}),
    "dcgan, 64x64": ("dcgan_cifar10", {"batch_size": 128, "data_options.size": (64,)}),
    "glow_cifar10": ("glow_cifar10", {}),
    "biggan_cifar10": ("biggan_cifar10", {"model.ema_start": 0}),
    "stylegan2_ffhq256": (
        "stylegan2_ffhq256",
        {"batch_size": 16, "model.minibatch_std_group_size": 4},
    ),
    "gan_mnist_paper": ("gan_mnist_paper", {}),
    "stylegan2_cifar10": ("stylegan2_cifar10", {}),
    "vae_mnist": ("vae_mnist", {}),
    "stylegan_mnist": ("stylegan_mnist", {}),
    "wgan_gp_cifar10": ("wgan_gp_cifar10", {}),
    "diffusion_cifar10": ("diffusion_cifar10", {}),
}
SMALL_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gan_digits_paper": ("gan_digits_paper", {}),
    "vae_digits": ("vae_digits", {"batch_size": 32}),
}


def changed(value: Any, changes: dict[str, Any]) -> Any:
    """Return a dataclass with other values of some fields, whose names may have dots."""
    for name, new in changes.items():
        first, _, rest = name.partition(".")
        inner = changed(getattr(value, first), {rest: new}) if rest else new
        value = dataclasses.replace(value, **{first: inner})
    return value


def load_case(recipe: str, changes: dict[str, Any], dtype: str) -> Recipe:
    """Load the recipe of a case."""
    found: Recipe = changed(load_recipe(recipe), changes | {"model.dtype": dtype})
    return found


class Measurement:
    """A process that compiles a case's steps when it is made, and times them when it is told.

    Several can thus compile at the same time, and each is timed alone.
    """

    def __init__(self, name: str, recipe: Recipe, limits: Limits):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_measure, args=(other, name, recipe, limits))
        self._process.start()

    def ready(self, seconds: float) -> bool:
        """Wait until the steps are compiled, or have failed; return whether they are."""
        return self._connection.poll(seconds) and self._connection.recv() is None

    def row(self, seconds: float) -> Row | None:
        """Time the steps, and end the process."""
        try:
            self._connection.send(None)
            found: Row | None = self._connection.recv() if self._connection.poll(seconds) else None
        except (EOFError, OSError):
            return None
        return found

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _measure(connection: Connection, name: str, recipe: Recipe, limits: Limits) -> None:
    start = time.monotonic()
    try:
        # A test checks that both compute the same; here it would take time.
        counterparts: dict[str, steps.Counterpart]
        counterparts = {"eager": functools.partial(eager, checked=False)}
        if recipe.family in COMPILED:
            counterparts["compiled"] = compiled
        row, runners = steps.prepare(recipe, counterparts, 1, limits, CALL_SECONDS)
        took = f"{time.monotonic() - start:.0f} s"
        print("compiled:", name, steps.dtype_of(recipe), took, flush=True)
        connection.send(None)
        connection.recv()
        row = {"recipe": name, **row, "loop_seconds": None}
        connection.send(row | steps.sample(runners, ROUNDS))
    except Exception:
        traceback.print_exc()
        connection.send(traceback.format_exc())


def measure_steps(
    cases: dict[str, tuple[str, dict[str, Any]]], found: Results, path: Path, until: float
) -> Results:
    """Measure the cases that `found` lacks, a few at a time, and save after each few."""
    known = {(row["recipe"], row["dtype"]) for row in found.rows}
    wanted = [(name, dtype) for name in cases for dtype in DTYPES if (name, dtype) not in known]
    for start in range(0, len(wanted), PROCESSES):
        if time.monotonic() > until - COMPILE_SECONDS / 3:
            break
        running = [
            (pair, Measurement(pair[0], load_case(*cases[pair[0]], pair[1]), found.limits))
            for pair in wanted[start : start + PROCESSES]
        ]
        end = min(until, time.monotonic() + COMPILE_SECONDS)
        ready = [(p, m) for p, m in running if m.ready(max(0, end - time.monotonic()))]
        # A case that is still compiling would disturb the others.
        for each in running:
            if each not in ready:
                print("not measured:", *each[0], flush=True)
                each[1].end()
        for pair, measurement in ready:
            row = measurement.row(max(1, until - time.monotonic()))
            measurement.end()
            if row is not None and not isinstance(row, str):
                found.rows.append(row)
            print("measured:" if row else "not measured:", *pair, flush=True)
            save(found, path)
    return found


def run_tests(rehearse: bool, folder: Path) -> dict[str, Any]:
    """Run the device tests; return how many passed, which failed, the seconds, whether to the end.

    Their output is in `tests.log`.
    """
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-W", "default"]
    command += ["-m", "device", "-n", str(min(8, os.cpu_count() or 1))]
    if rehearse:
        command += ["-k", "that_of_scipy", "tests/nn/test_resample.py"]
    # The choice of the fastest algorithms would take most of the time.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    start = time.monotonic()
    with open(folder / "tests.log", "wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"GENJAX_TEST_AS_USERS": "1", "XLA_FLAGS": flags},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(TEST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    done = re.findall(r"(PASSED|FAILED|ERROR) (tests/\S+)", (folder / "tests.log").read_text())
    return {
        "seconds": round(time.monotonic() - start),
        "ended": process.returncode in (0, 1),
        "passed": sum(outcome == "PASSED" for outcome, _ in done),
        "failed": sorted({name for outcome, name in done if outcome != "PASSED"}),
    }


def trainings(given: argparse.Namespace) -> dict[str, list[str]]:
    """Return the arguments of `genjax train` for each training."""
    if given.rehearse:
        return {"gan": ["gan_digits_paper", "--steps", "200", "--save-interval", "100"]}
    found = {}
    if given.data_dir:
        data = ["--data-dir", given.data_dir]
        found["iwae"] = ["vae_mnist_iwae", *data]
        found["glow"] = ["glow_mnist", *data]
    if given.cifar:
        found["stylegan2"] = ["stylegan2_cifar10", "--data", given.cifar, "--save-interval", "500"]
        found["stylegan2"] += ["--split", "train[:90%]", "--test-split", "train[90%:]"]
    return found


def start_trainings(given: argparse.Namespace) -> dict[str, subprocess.Popen[bytes]]:
    """Start or resume all trainings, side by side, in the folder `--runs`."""
    genjax = [sys.executable, "-m", "genjax.cli"]
    started = {}
    for name, arguments in trainings(given).items():
        run = given.runs / name
        command = ["resume", str(run)] if run.exists() else ["train", *arguments, "--run", str(run)]
        with open(given.output / f"{name}.log", "ab") as log:
            started[name] = subprocess.Popen([*genjax, *command], stdout=log, stderr=log)
    return started


def stop_trainings(
    given: argparse.Namespace, started: dict[str, subprocess.Popen[bytes]], until: float
) -> None:
    """Stop trainings when the time is over, and save the last values of each run."""
    for process in started.values():
        try:
            process.wait(max(1, until - SAVE_SECONDS - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
    result = {}
    for name, process in started.items():
        run = given.runs / name
        try:
            process.wait(SAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        grids = sorted((run / "samples").glob("*.png"))
        if not grids:
            continue
        shutil.copy(grids[-1], given.output / f"{name}.png")
        merged: dict[str, Any] = {}
        for record in read_records(RunFolder(run)):
            merged |= record
        result[name] = merged
    (given.output / "trainings.json").write_text(json.dumps(result, indent=1))


def page(folder: Path) -> Iterator[str]:
    """Iterate over the parts of the page, as far as they are measured."""
    found = load(folder / "steps.json", "steps")
    yield machine_line(found)
    if (folder / "tests.json").exists():
        tests = json.loads((folder / "tests.json").read_text())
        ended = "" if tests["ended"] else ", and were stopped then"
        yield (
            f"### Device tests: `pytest -m device`\n\n{tests['passed']} passed and "
            f"{len(tests['failed'])} failed in {tests['seconds']} s{ended}."
        )
        yield "\n".join(f"- failed: {name}" for name in tests["failed"])
    if (folder / "blurs.json").exists():
        yield "### Blurs with their gradients, as shifted slices and as XLA's convolution"
        yield table(json.loads((folder / "blurs.json").read_text()), blurs.COLUMNS, markdown=True)
    yield "### Train steps at real sizes, and PyTorch beside them"
    yield table(found.rows, columns(found), markdown=True)
    yield "\n".join(f"- {note}" for note in notes(found.rows))
    if (folder / "trainings.json").exists():
        yield "### Trainings, side by side"
        for name, record in json.loads((folder / "trainings.json").read_text()).items():
            values = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in record.items()
            )
            yield f"- {name}: {values}"


def main() -> None:
    """Measure everything, and write the page."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("accelerator"), help="results")
    parser.add_argument("--runs", type=Path, help="run folders; by default in the results")
    parser.add_argument("--seconds", type=float, default=530, help="time in all")
    parts = ["tests", "blurs", "steps", "trainings"]
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts, help="what to measure")
    parser.add_argument("--data-dir", help="where tfds data lie")
    parser.add_argument("--cifar", help="a .zip of CIFAR-10's training images")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--page", action="store_true", help="only write the page, from the results")
    given = parser.parse_args()
    missing = [name for name in ("pytest", "torch") if importlib.util.find_spec(name) is None]
    if "tests" in given.parts and "pytest" in missing:
        parser.error("the tests need pytest: pip install '.[test,bench]', or --parts without tests")
    if "steps" in given.parts and "torch" in missing:
        print("no PyTorch here: steps are not compared with it", file=sys.stderr)
    given.runs = given.runs or given.output / "runs"
    given.output.mkdir(exist_ok=True, parents=True)
    until = start + given.seconds
    # PyTorch and several processes share the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    def write() -> str:
        text = "\n\n".join(part for part in page(given.output) if part)
        (given.output / "page.md").write_text(text + "\n")
        return text

    path = given.output / "steps.json"
    if not path.exists():
        # This runs in a process of its own, whose memory is free afterwards.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            about, limits = pool.apply(_about)
        save(Results("steps", about, limits, []), path)
    write()
    if given.page:
        write_part("gpu", write())
        return
    tests, trains = given.output / "tests.json", "trainings" in given.parts
    if "tests" in given.parts and not tests.exists():
        started = start_trainings(given) if trains else {}
        tests.write_text(json.dumps(run_tests(given.rehearse, given.output), indent=1))
        stop_trainings(given, started, time.monotonic())
        write()
    if "blurs" in given.parts and not (given.output / "blurs.json").exists():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(blurs.measure, (given.rehearse,))
        (given.output / "blurs.json").write_text(json.dumps(found, indent=1))
        write()
    if "steps" in given.parts:
        cases = SMALL_CASES if given.rehearse else CASES
        measure_steps(cases, load(path, "steps"), path, until)
        write()
    if trains and until - time.monotonic() > TRAIN_SECONDS + SAVE_SECONDS:
        stop_trainings(given, start_trainings(given), until)
        write()
    if not given.rehearse:
        write_part("gpu", write())
    print((given.output / "page.md").read_text())


def _about() -> tuple[dict[str, Any], Limits]:
    return machine(), measure_limits(DTYPES)


if __name__ == "__main__":
    main()
