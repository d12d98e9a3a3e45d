"""Inception-v3 of TensorFlow's 2015 graph, as pytorch-fid converted it: a state dict of PyTorch.

Names are such as `Conv2d_1a_3x3.conv.weight`, `Conv2d_1a_3x3.bn.running_mean` and `fc.weight`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genjax.interop.entries import check_entries
from genjax.metrics.inception import params_shapes

# The name and the address of the published file of converted weights.
FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"

EPSILON = 1e-3
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
# Counts of batches, and the bias that the Inception Score leaves out.
UNUSED = ("num_batches_tracked", "fc.bias")


def entries() -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of the state dict, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in _kernels().items():
        name = ".".join(layer)
        if len(shape) == 2:
            shapes[f"{name}.weight"] = shape[::-1]
            continue
        shapes[f"{name}.conv.weight"] = (shape[3], shape[2], *shape[:2])
        shapes |= {f"{name}.bn.{part}": shape[3:] for part in BATCH_NORM}
    return shapes


def _kernels() -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the shape of each of our kernels by its layer's path."""
    flat = flatten_dict(params_shapes())
    return {path[:-1]: leaf.shape for path, leaf in flat.items() if path[-1] == "kernel"}


def load(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert the state dict to parameters of `InceptionV3`: kernels [KH, KW, I, O], biases [O].

    Each batch norm is folded into its convolution.

    Raises:
        UsageError: An entry is missing, unknown or misshapen; the message sums them up.
    """
    arrays = {name: array for name, array in arrays.items() if not name.endswith(UNUSED)}
    check_entries(entries(), arrays)
    params: dict[tuple[str, ...], np.ndarray] = {}
    for layer, shape in _kernels().items():
        name = ".".join(layer)
        if len(shape) == 2:
            params[*layer, "kernel"] = arrays[f"{name}.weight"].T
            continue
        scale, shift, mean, variance = (
            arrays[f"{name}.bn.{part}"].astype(np.float64) for part in BATCH_NORM
        )
        scale = scale / np.sqrt(variance + EPSILON)
        kernel = arrays[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * scale
        params[*layer, "kernel"] = kernel.astype(np.float32)
        params[*layer, "bias"] = (shift - mean * scale).astype(np.float32)
    variables: dict[str, Any] = unflatten_dict(params)
    return variables
