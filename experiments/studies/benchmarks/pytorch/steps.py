"""PyTorch's training steps as counterparts of ours, for `genjax.bench.steps`."""

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import jax
from tyro.conf import Positional

from experiments.studies.benchmarks.pytorch import find
from genjax.bench import steps
from genjax.bench.results import Column, Results
from genjax.run.options import Flat
from genjax.run.recipe import Recipe, load_recipe
from genjax.types import ImageSpec, UsageError

Way = Literal["eager", "compiled"]


def bench_beside_pytorch(
    recipes: Positional[Sequence[str]] = steps.RECIPES,
    torch: Sequence[Way] = ("eager",),
    options: Annotated[steps.Options, Flat] = steps.Options(),  # noqa: B008 - frozen
    devices: Sequence[int] = (1,),
) -> Results:
    """Time training steps of recipes, in alternation with PyTorch's.

    First, a check makes sure that both compute the same losses.

    Args:
        recipes: Names of recipes.
        torch: Whether PyTorch's steps are eager, by torch.compile, or both.
        options: Options of the measurements.
        devices: Numbers of devices, a row for each; on a CPU they are simulated.

    Returns:
        The results of `bench_steps`, with counterparts `eager` and `compiled`.

    Raises:
        UsageError: PyTorch is not installed, or `bench_steps` raises one.
        AssertionError: PyTorch computes other losses.
    """
    for name in recipes:
        find(load_recipe(name).family)
    known: dict[str, steps.Counterpart] = {"eager": eager, "compiled": compiled}
    counterparts = {name: counterpart for name, counterpart in known.items() if name in torch}
    found = steps.bench_steps(
        recipes, dataclasses.replace(options, counterparts=counterparts), devices
    )
    versions = found.machine["versions"] | {"torch": importlib.metadata.version("torch")}
    return dataclasses.replace(found, machine=found.machine | {"versions": versions})


def columns(found: Results) -> list[Column]:
    """Return the columns of `genjax bench steps`, and two of PyTorch's time over ours."""
    return [
        *steps.columns(found.limits),
        ("PyTorch / genjax", lambda row: steps.ratio("eager", row)),
        ("compiled / genjax", lambda row: steps.ratio("compiled", row)),
    ]


def eager(recipe: Recipe, spec: ImageSpec, count: int, checked: bool = True) -> Callable[[], float]:
    """Make a function that takes `count` steps in PyTorch; it gives the seconds of one.

    First, it is checked that both compute the same, but for `checked=False`.

    Raises:
        UsageError: It has not what the config asks for.
        AssertionError: It computes something else.
    """
    return _runner(recipe, spec, count, False, checked)


def compiled(recipe: Recipe, spec: ImageSpec, count: int) -> Callable[[], float]:
    """Make a function that takes `count` steps by torch.compile; it gives the seconds of one.

    Raises:
        UsageError: It has not what the config asks for, or cannot be compiled.
    """
    try:
        return _runner(recipe, spec, count, True, False)
    except UsageError:
        raise
    except Exception as error:  # what torch.compile cannot do comes in many forms
        said = str(error).splitlines() or [""]
        raise UsageError(f"{type(error).__name__}: {said[0]}") from error


def _runner(
    recipe: Recipe, spec: ImageSpec, count: int, is_compiled: bool, checked: bool
) -> Callable[[], float]:
    maker = find(recipe.family)
    import torch

    from experiments.studies.benchmarks.pytorch.common import DEVICE

    counterpart = maker(recipe.model, spec, recipe.batch_size, is_compiled)
    if checked:
        with jax.default_matmul_precision("highest"):
            counterpart.check()
    shape = (steps.IMAGES, spec.channels, spec.height, spec.width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, max(1, spec.classes), (steps.IMAGES,), device=DEVICE)

    def run(count: int) -> None:
        for index in range(count):
            chosen = torch.randint(0, steps.IMAGES, (recipe.batch_size,), device=DEVICE)
            loss = counterpart.step(index, images[chosen], labels[chosen])
        loss.item()

    def timed() -> float:
        start = time.perf_counter()
        run(count)
        return (time.perf_counter() - start) / count

    run(steps.STEPS[0])  # so that it is warm
    return timed
