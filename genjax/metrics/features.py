"""A feature net over many images: on all devices of this process, some images at a time."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.special import log_softmax

# Images uint8 [N, H, W, C] to features [N, D] and logits [N, K], float32.
FeatureNet = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def over_devices(apply: Callable[[Any, jax.Array], Any], variables: Any, chunk: int) -> FeatureNet:
    """A pure function of variables and a batch, as a function of any number of images.

    Args:
        apply: Variables, images uint8 [B, H, W, C] -> features [B, D] and logits [B, K].
        variables: Put on every device once.
        chunk: Images on a device in one call.
    """
    devices = np.array(jax.local_devices())
    mesh = Mesh(devices, ("batch",))
    everywhere, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    variables = jax.device_put(variables, everywhere)
    apply = jax.jit(apply)

    def net(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Every call is of the same size, so that one program does.
        size = min(chunk, math.ceil(len(images) / len(devices))) * len(devices)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = [(0, size - len(part)), *[(0, 0)] * (images.ndim - 1)]
            batch = jax.device_put(np.pad(part, missing), spread)
            found = jax.device_get(apply(variables, batch))
            parts.append([array[: len(part)] for array in found])
        features, logits = zip(*parts, strict=True)
        return np.concatenate(features), np.concatenate(logits)

    return net


def for_each_channel(net: FeatureNet) -> FeatureNet:
    """A net of gray images, for images whose channels are independent gray images.

    Features stand beside each other, [N, C * D]; logits are those of all combinations of the
    channels' classes, [N, K ** C], the first channel's class counting most.
    """

    def stacked(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        channels = range(images.shape[-1])
        features, logits = zip(*(net(images[..., c : c + 1]) for c in channels), strict=True)
        log_p = [log_softmax(each, axis=1) for each in logits]
        together = functools.reduce(
            lambda a, b: (a[:, :, None] + b[:, None]).reshape(len(b), -1), log_p
        )
        return np.concatenate(features, axis=1), together

    return stacked
