"""Ahead-of-time compilation of a train step, for this machine or for a TPU slice elsewhere."""

import dataclasses
import importlib.util
import math
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from genjax.data.sources import expected_spec
from genjax.planning.cost import COLLECTIVES, Traffic, flops, peak_bytes, traffic
from genjax.run.environment import environment
from genjax.run.options import Flat
from genjax.run.recipe import Recipe, train_step
from genjax.run.sharding import Steps
from genjax.run.states import abstract_state
from genjax.types import Batch, ImageSpec, UsageError

GIB = 2**30
# Seconds of a hop between neighbouring chips, however little is sent; an estimate.
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class Chip:
    """The published peaks of a TPU chip.

    Attributes:
        flops: Operations a second in bfloat16. A product of float32 arrays has this rate too: it is
            taken in bfloat16 with float32 sums, in several passes if its precision is not default.
        hbm_gib: Memory in GiB.
        hbm_bandwidth: Bytes a second between memory and chip.
        link_bandwidth: Bytes a second to the neighbours along one axis of the slice, both ways.
        config: Name of libtpu's configuration in which the chip is one device.
    """

    flops: float
    hbm_gib: float
    hbm_bandwidth: float
    link_bandwidth: float
    config: str = "default"


CHIPS = {
    "v4": Chip(275e12, 32, 1.228e12, 0.9e11, "megacore"),
    "v5e": Chip(197e12, 16, 0.819e12, 0.9e11),
    "v5p": Chip(459e12, 95, 2.765e12, 1.8e11),
    "v6e": Chip(918e12, 32, 1.640e12, 1.8e11),
}


class Roofline(NamedTuple):
    """The estimated seconds of a step, in three parts.

    Attributes:
        compute: Seconds of arithmetic.
        memory: Seconds of memory traffic, assumed to overlap with arithmetic.
        collectives: Seconds of communication, after both.
    """

    compute: float
    memory: float
    collectives: float

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return max(self.compute, self.memory) + self.collectives


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step, and its costs.

    Attributes:
        where: The topology, or the kind of the local devices.
        devices: Number of devices.
        batch_size: Images a step, over all devices.
        parallel: How the step is spread over devices; see `run.sharding.Steps`.
        seconds: Seconds that compiling took.
        needed_gib: Memory that a device needs, without a data set that is held on it.
        capacity_gib: Memory that a device has; None if it is not known.
        flops: Operations of a step, over all devices.
        memory_bytes: Bytes that a device reads and writes in a step; 0 if compiling failed because
            the program needs too much memory.
        collectives: Bytes that a device gives to each kind of collective in a step.
        collective_calls: Number of collectives in a step.
        passes: Passes of a TPU's matrix unit for a product, on average over `flops`; 1 where they
            were not counted.
    """

    where: str
    devices: int
    batch_size: int
    parallel: str
    seconds: float
    needed_gib: float
    capacity_gib: float | None
    flops: int
    memory_bytes: int
    collectives: dict[str, int]
    collective_calls: int
    passes: float = 1.0

    @property
    def fits(self) -> bool:
        """Whether the program fits a device's memory; true if the memory is not known."""
        return self.capacity_gib is None or self.needed_gib <= self.capacity_gib

    @property
    def step_seconds(self) -> float | None:
        """Seconds of a step by the roofline; None if the peaks of the devices are not known."""
        found = roofline(self, self.where)
        return found and found.step


class _Shapes:
    """A stand-in for `Batches` that has shapes and no images."""

    arrays = ()
    max_steps = 1

    def __init__(self, batch_size: int, spec: ImageSpec):
        self._batch_size, self._spec = batch_size, spec

    def feed(self, first_step: int, steps: int) -> Any:
        """Return shapes and types of the feed."""
        leading = (steps, self._batch_size)
        images: Any = jax.ShapeDtypeStruct((*leading, *self._spec.shape), np.uint8)
        labels: Any = jax.ShapeDtypeStruct(leading, np.int32)
        return Batch(images, labels)

    @staticmethod
    def select(arrays: Any, item: Batch) -> Batch:
        """Return the item, which is the batch."""
        return item


def compile_step(recipe: Annotated[Recipe, Flat], topology: str | None = None) -> Program:
    """Compile the train step of a recipe, and estimate the memory and time that it needs.

    Args:
        recipe: The recipe; only the shape of its data matters.
        topology: A TPU slice, CHIP:AxB or CHIP:AxBxC such as v5e:16x16; no TPU is needed. None: the
            devices of this machine.

    Raises:
        UsageError: The topology is unknown, libtpu is not installed, `parallel` is pmap, or the
            batch size is no multiple of the number of devices.
    """
    if recipe.parallel == "pmap":
        raise UsageError("parallel = 'pmap': wanted jit or fsdp, of which a program can be had")
    devices = None if topology is None else _devices(topology)
    spec = expected_spec(recipe.data, recipe.data_options)
    start = time.monotonic()
    steps = Steps(
        train_step(recipe),
        _Shapes(recipe.batch_size, spec),
        recipe.batch_size,
        jax.random.key(recipe.seed),
        recipe.parallel,
        abstract_state(recipe, spec),
        devices,
    )
    traced = steps.trace(1)
    operations = flops(traced.jaxpr)
    chip = CHIPS[topology.partition(":")[0]] if topology else None
    count = len(devices or jax.devices())
    moved = Traffic(0, [])
    try:
        compiled = traced.lower().compile()
        needed = peak_bytes(compiled) / GIB
        moved = traffic(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:
        # The program is too large; the message has the memory of all or of temporary values alone.
        used = re.search(r"(?:Used |required for [\w ]+ \()([\d.]+)([MGT])", str(error))
        if used is None:
            raise
        needed = float(used[1]) * {"M": 2**-10, "G": 1, "T": 2**10}[used[2]]
    return Program(
        where=topology or jax.devices()[0].device_kind,
        devices=count,
        batch_size=recipe.batch_size,
        parallel=recipe.parallel,
        seconds=time.monotonic() - start,
        needed_gib=needed,
        capacity_gib=chip.hbm_gib if chip else None,
        flops=operations,
        memory_bytes=moved.memory,
        collectives={kind: moved.bytes_of(kind) for kind in COLLECTIVES if moved.bytes_of(kind)},
        collective_calls=moved.calls,
        passes=flops(traced.jaxpr, passes=True) / operations,
    )


def roofline(program: Program, topology: str) -> Roofline | None:
    """Estimate a program's times on a slice, with the same images a device as it was compiled for.

    The result is None if the chip is unknown, or if the program could not be compiled.
    """
    chip = CHIPS.get(topology.partition(":")[0])
    if chip is None or not program.memory_bytes:
        return None
    return Roofline(
        program.flops * program.passes / program.devices / chip.flops,
        program.memory_bytes / chip.hbm_bandwidth,
        communication_seconds(program, chip, topology_axes(topology)),
    )


def communication_seconds(program: Program, chip: Chip, axes: Sequence[int]) -> float:
    """Estimate the seconds of a step's collectives on a torus, one after the other.

    Each uses all axes at once. An all-reduce sends its bytes twice, to scatter and to gather them.

    Args:
        program: The program.
        chip: The chips of the slice.
        axes: Lengths of the axes of the slice, in chips.
    """
    long_axes = [length for length in axes if length > 1]
    if not long_axes:
        return 0.0
    sent = sum(
        size * (2 if kind == "all-reduce" else 1) for kind, size in program.collectives.items()
    )
    hops = sum(long_axes) * HOP_SECONDS
    return sent / (chip.link_bandwidth * len(long_axes)) + program.collective_calls * hops


def topology_axes(topology: str) -> list[int]:
    """Return the lengths of a topology's axes: [16, 16] for `v5e:16x16`."""
    return [int(length) for length in topology.partition(":")[2].split("x")]


def _devices(topology: str) -> Sequence[jax.Device]:
    name = topology.partition(":")[0]
    if name not in CHIPS or not re.fullmatch(r"\w+:\d+(x\d+)+", topology):
        raise UsageError(
            f"topology {topology!r}: should be CHIP:AxB or CHIP:AxBxC, such as v5e:16x16 or "
            f"v4:4x4x4, of {', '.join(CHIPS)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            "topology: the compiler for TPUs is not installed: "
            "pip install -r requirements-tpu.txt; no TPU is needed"
        )
    from jax.experimental import topologies

    # Without these, libtpu asks the TPU VM for them, and reports an error as there is none.
    told = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is used, so another process may hold it
    }
    with environment(**told):
        try:
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=topology, chip_config_name=CHIPS[name].config
            )
        except jax.errors.JaxRuntimeError as error:
            raise UsageError(f"topology {topology!r}: {str(error).splitlines()[0]}") from error
    return found.devices


def advice(recipe: Recipe, program: Program) -> list[str]:
    """Suggest options with which a program that is too large would fit, with estimated memory.

    The estimates assume that all memory but the state's grows with the images of a device.
    """
    if program.fits or program.capacity_gib is None:
        return []
    spec = expected_spec(recipe.data, recipe.data_options)
    leaves = jax.tree.leaves(abstract_state(recipe, spec))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / GIB
    share = program.batch_size // program.devices
    activations = program.needed_gib - state
    found = []
    if recipe.parallel != "fsdp" and program.devices > 1:
        split = state / program.devices + activations
        enough = "" if split <= program.capacity_gib else ", which alone is not enough"
        found.append(f"--parallel fsdp: about {split:.1f} GiB{enough}")
    free_gib = program.capacity_gib - state
    if free_gib > 0:
        parts = [n for n in range(2, share + 1) if share % n == 0 and activations / n <= free_gib]
        if parts:
            steps = getattr(recipe.model, "gradient_accumulation_steps", 1) * parts[0]
            gib = state + activations / parts[0]
            found.append(f"--gradient-accumulation-steps {steps}: about {gib:.1f} GiB")
        fitting = math.floor(share * free_gib / activations)
        if fitting >= 1:
            found.append(
                f"--batch-size {fitting * program.devices}: {fitting} images a device, not {share}"
            )
    if getattr(recipe.model, "remat", None) == "none":
        found.append("--remat blocks: less, which only compiling tells; it goes with the others")
    return found


def to_text(recipe: Recipe, program: Program) -> str:
    """Describe a program: its memory, its costs, and its time by the roofline."""
    chips = f"{program.devices} device{'s' if program.devices > 1 else ''}"
    share = program.batch_size // program.devices
    lines = [
        f"where        {program.where}, {chips}, {program.parallel}",
        f"batch        {program.batch_size} images a step, {share} a device",
        f"compiled in  {program.seconds:.0f} s",
    ]
    memory = f"memory       {program.needed_gib:.3g} GiB a device"
    if program.capacity_gib is not None:
        memory += f" of {program.capacity_gib:g}: {'fits' if program.fits else 'does not fit'}"
    lines.append(memory + " (data that reside on it not counted)")
    lines += [f"  would fit  {line}" for line in advice(recipe, program)]
    lines.append(f"arithmetic   {program.flops / 1e9:,.1f} GFLOP a step, over all devices")
    if program.memory_bytes:
        lines.append(f"traffic      {program.memory_bytes / 1e6:,.1f} MB a step and device")
    for kind, size in program.collectives.items():
        lines.append(f"  {kind:18} {size / 1e6:,.2f} MB a step and device")
    times = roofline(program, program.where)
    if times is not None:
        compute, memory_time, collective = (f"{seconds * 1e3:.3g} ms" for seconds in times)
        lines += [
            f"roofline     {times.step * 1e3:.3g} ms a step: arithmetic {compute}, "
            f"memory {memory_time}, then {program.collective_calls} collectives {collective}",
            f"             {program.batch_size / times.step:,.0f} images/s",
            "assumed      published peaks of the chip, all links at once, nothing overlapped; the",
            "             costliest branch of every condition, so each regularization in each step",
            f"passes       {program.passes:.3g} a product: 3 in float32 at `high`, 6 at `highest`",
        ]
    return "\n".join(lines)
