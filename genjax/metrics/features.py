"""Feature nets over many images, a few at a time on each device of this process."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.nn.precision import exact

# A function from images uint8 [N, H, W, C] to features [N, D] and logits [N, K], float32.
FeatureNet = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def over_devices(apply: Callable[[Any, jax.Array], Any], variables: Any, chunk: int) -> FeatureNet:
    """Turn a function of variables and a batch into one of any number of images.

    Args:
        apply: Variables, images uint8 [B, H, W, C] -> features [B, D] and logits [B, K].
        variables: The variables, which are copied to every device once.
        chunk: Number of images on a device in one call.

    Returns:
        The feature net.
    """
    devices = np.array(jax.local_devices())
    mesh = Mesh(devices, ("batch",))
    everywhere, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    variables = jax.device_put(variables, everywhere)
    # Distances between rounded features would be of the rounding too.
    apply = jax.jit(exact()(apply))

    def net(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # All calls have the same size, so that one compiled program is enough.
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
    """Apply a net of gray images to images whose channels are independent gray images.

    The features of the C channels are concatenated, [N, C * D]. The logits, [N, K ** C], are those
    of all combinations of the channels' classes, with the first channel as the highest digit.
    """
    from scipy.special import log_softmax  # a fifth of a second to import

    def stacked(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        channels = range(images.shape[-1])
        features, logits = zip(*(net(images[..., c : c + 1]) for c in channels), strict=True)
        log_p = [log_softmax(each, axis=1) for each in logits]
        together = functools.reduce(
            lambda a, b: (a[:, :, None] + b[:, None]).reshape(len(b), -1), log_p
        )
        return np.concatenate(features, axis=1), together

    return stacked
