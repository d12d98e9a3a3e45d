"""Functions that take steps of a family as training does, on some of the devices."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from genjax.data.batches import Resident
from genjax.run.sharding import Parallel, Steps
from genjax.types import Batch, Config, Family, ImageSpec, State


def random_images(spec: ImageSpec, count: int) -> Batch:
    """Return fixed noise images of different brightness, so that parts of a batch differ."""
    images = np.random.default_rng(0).integers(0, 256, (count, *spec.shape), np.uint8)
    brightness = np.random.default_rng(1).uniform(size=(count, 1, 1, 1))
    return Batch(
        (images * brightness).astype(np.uint8),
        (np.arange(count) % max(spec.classes, 1)).astype(np.int32),
    )


@functools.cache
def initial_state(family: Family, config: Config, spec: ImageSpec) -> State:
    """Return the state at step 0 in the host's memory, so that it can be donated repeatedly."""
    init = jax.jit(lambda key: family.init(config, key, spec))
    return jax.tree.map(np.asarray, init(jax.random.key(0)))


def steps(
    family: Family,
    config: Config,
    data: Batch,
    batch_size: int,
    like: State,
    parallel: Parallel = "jit",
    devices: Sequence[jax.Device] | None = None,
) -> tuple[Steps, Resident]:
    """Return the program that training runs, and its source of batches."""
    images, labels = map(np.asarray, data)
    batches = Resident(images, labels, batch_size, seed=0)
    step = functools.partial(family.step, config)
    key = jax.random.key(1)
    return Steps(step, batches, batch_size, key, parallel, like, devices), batches


def take_steps(
    family: Family,
    config: Config,
    state: State,
    data: Batch,
    batch_size: int,
    count: int = 1,
    parallel: Parallel = "jit",
    devices: int = 1,
) -> tuple[State, dict[str, Any]]:
    """Return the whole state after so many steps, and the metrics, [steps] each."""
    compiled, batches = steps(
        family, config, data, batch_size, state, parallel, jax.devices()[:devices]
    )
    after, metrics = compiled(compiled.put(state), batches.feed(0, count))
    return jax.tree.map(np.asarray, compiled.get(after)), metrics
