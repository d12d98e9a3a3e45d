"""The time of each operation of a step, and its bound, for `genjax profile`."""

import dataclasses
import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax

from genjax.bench.results import Column, Row, duration, table
from genjax.bench.steps import Trainer, dtype_of
from genjax.bench.timing import Limits, measure_limits
from genjax.data.sources import expected_spec
from genjax.planning.cost import Work, work_of_instructions
from genjax.run.options import Flat, Output
from genjax.run.recipe import Recipe
from genjax.types import UsageError

# Instructions whose time is that of their inner instructions.
AROUND = ("while", "conditional", "call")
# Number of kinds of operations in the report.
KINDS = 8


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction of the compiled program.

    Attributes:
        name: Its name, such as `fusion.12`.
        layer: The code it comes from, by jax's name: functions, modules, operation.
        seconds: Seconds that it takes in a step.
        calls: Calls in a step.
        work: Operations and bytes of one call.
    """

    name: str
    layer: str
    seconds: float
    calls: float
    work: Work

    def bound(self, limits: Limits, dtype: str) -> tuple[float, str]:
        """Return the least seconds that it could take in a step, and the limit that bounds it."""
        compute = self.calls * self.work.flops / limits.product[dtype]
        memory = self.calls * self.work.bytes / limits.copy
        return max((compute, "product"), (memory, "memory"))


@dataclasses.dataclass(frozen=True)
class Profile:
    """A profile of a recipe's steps.

    Attributes:
        recipe: The recipe.
        steps: Number of steps that were run.
        seconds: Seconds of a step by the clock, under the profiler.
        limits: Limits of the machine, measured in the same run.
        operations: The operations, the longest first.
        trace: The folder of the trace for TensorBoard and Perfetto; None if it was not kept.
    """

    recipe: Recipe
    steps: int
    seconds: float
    limits: Limits
    operations: list[Operation]
    trace: Path | None


def profile(
    recipe: Annotated[Recipe, Flat], output: Annotated[Path | None, Output] = None
) -> Profile:
    """Run steps under jax's profiler, and time their operations.

    Args:
        recipe: The recipe; only the shape of its data matters.
        output: A new folder for the trace, which TensorBoard and Perfetto read. None: the trace is
            not kept.

    Raises:
        UsageError: The folder exists already, `parallel` is pmap, whose program jax does not give,
            or jax wrote no trace with operations of the step.
    """
    if recipe.parallel == "pmap":
        raise UsageError("parallel = 'pmap': wanted jit or fsdp, of which a program can be had")
    if output is not None and output.exists():
        raise UsageError(f"output {output}: is there already; wanted a new folder")
    limits = measure_limits([dtype_of(recipe)])
    spec = expected_spec(recipe.data, recipe.data_options)
    trainer = Trainer(recipe, spec, jax.device_count(), limits)
    trainer()
    with tempfile.TemporaryDirectory() as scratch:
        folder = output or Path(scratch) / "trace"
        with jax.profiler.trace(str(folder)):
            seconds = trainer()
        events = _events(folder)
    works = work_of_instructions(trainer.hlo)
    times: dict[str, list[float]] = defaultdict(list)
    for name, event_seconds in events:
        if name not in works or works[name].opcode not in AROUND:
            times[name].append(event_seconds)
    operations = [
        Operation(
            name,
            _layer(works[name].source) if name in works else "",
            sum(values) / trainer.steps / jax.local_device_count(),
            len(values) / trainer.steps / jax.local_device_count(),
            works.get(name, Work(0, 0, "", "")),
        )
        for name, values in times.items()
    ]
    operations.sort(key=lambda each: -each.seconds)
    return Profile(recipe, trainer.steps, seconds, limits, operations, output)


def _events(folder: Path) -> list[tuple[str, float]]:
    """Read name and seconds of each run of an instruction of the train step from a trace.

    Raises:
        UsageError: The folder does not have exactly one trace, or the trace is damaged or has no
            operation of the step.
    """
    paths = list(folder.rglob("*.xplane.pb"))
    if len(paths) != 1:
        raise UsageError(f"trace {folder}: has {len(paths)} files .xplane.pb; wanted one")
    events = []
    # From Python 3.12 on, jax's reader causes a warning when it creates its types. If warnings are
    # errors, it is an error inside native code and aborts the process.
    with warnings.catch_warnings(action="ignore"):
        try:
            data: Any = jax.profiler.ProfileData.from_file(str(paths[0]))
            for plane in data.planes:
                for line in plane.lines:
                    for event in line.events:
                        stats = dict(event.stats)
                        is_step = str(stats.get("hlo_module", "")).startswith("jit_run")
                        if is_step and "hlo_op" in stats:
                            events.append((str(stats["hlo_op"]), event.duration_ns / 1e9))
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"trace {paths[0]}: cannot be read: {error}") from error
    if not events:
        raise UsageError(f"trace {paths[0]}: holds no operation of the train step")
    return events


def _layer(source: str) -> str:
    """Return jax's name of an operation without the parts that most of them share."""
    source = re.sub(r"^jit\(run\)/", "", source)
    source = re.sub(
        r"\b(while/body|closed_call|eval_jaxpr|cond/branch_\d+_fun|checkpoint)/", "", source
    )
    return re.sub(r"\bjit\((\w+)\)/", r"\1/", source)


def by_kind(found: Profile) -> list[tuple[str, float]]:
    """Return the kinds of operations that take the most time, and their fractions of it.

    A kind is the last part of jax's name of an operation.
    """
    total = sum(each.seconds for each in found.operations)
    seconds: dict[str, float] = defaultdict(float)
    for each in found.operations:
        seconds[each.layer.rpartition("/")[2] or "other"] += each.seconds
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:KINDS]
    return [(kind, part / total) for kind, part in longest]


def columns(found: Profile) -> list[Column]:
    """Return the columns of the table of operations."""

    def rate(each: Operation) -> str:
        amount = each.calls * each.work.flops
        return f"{amount / each.seconds / 1e9:.0f}" if amount else ""

    def bound(each: Operation) -> str:
        seconds, by = each.bound(found.limits, dtype_of(found.recipe))
        return f"{duration(seconds)}, {by}" if seconds else ""

    def reached(each: Operation) -> str:
        seconds, _ = each.bound(found.limits, dtype_of(found.recipe))
        return f"{100 * seconds / each.seconds:.0f}%" if seconds else ""

    total = sum(each.seconds for each in found.operations)
    texts: dict[str, Callable[[Operation], str]] = {
        "operation": lambda each: each.name,
        "calls": lambda each: f"{each.calls:.3g}",
        "a step": lambda each: duration(each.seconds),
        "share": lambda each: f"{100 * each.seconds / total:.1f}%",
        "GFLOP/s": rate,
        "at least": bound,
        "reached": reached,
        "of": lambda each: each.layer,
    }

    def of_row(text: Callable[[Operation], str]) -> Callable[[Row], str]:
        return lambda row: text(row["operation"])

    return [(title, of_row(text)) for title, text in texts.items()]


def to_text(found: Profile, top: int) -> str:
    """Format the `top` longest operations as a table, with totals below it."""
    total = sum(each.seconds for each in found.operations)
    shown = found.operations[:top]
    share = sum(each.seconds for each in shown) / total if total else 0.0
    limits, dtype = found.limits, dtype_of(found.recipe)
    kinds = ", ".join(f"{100 * part:.0f}% {kind}" for kind, part in by_kind(found))
    lines = [
        table([{"operation": each} for each in shown], columns(found)),
        "",
        f"{len(shown)} of {len(found.operations)} operations, {100 * share:.0f}% of their time; "
        f"{duration(total)} in operations of a step of {duration(found.seconds)}, which may "
        "overlap, under the profiler",
        f"by kind: {kinds}",
        f"bounds by what was measured here: a copy {limits.copy / 1e9:.3g} GB/s (caches are "
        f"faster), a product {limits.product[dtype] / 1e9:,.0f} GFLOP/s in {dtype}",
    ]
    if found.trace is not None:
        lines.append(f"trace {found.trace}: tensorboard --logdir, or ui.perfetto.dev")
    return "\n".join(lines)
