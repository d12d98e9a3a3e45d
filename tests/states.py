"""States at step 0 that NumPy draws, which spares compiling `init`, often longer than a step."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.models import glow
from genjax.types import Config, ImageSpec

# Learning rate of the layers of mapping networks, fc0 and so on, relative to that of others.
MAPPING_RATE = 0.01


def drawn_state(init: Callable[..., Any], config: Config, spec: ImageSpec) -> Any:
    """Return a state at step 0 of a GAN or a VAE, with other draws of its weights than `init`'s.

    Weights are normal, with a variance that keeps that of activations; all else is as in `init`, by
    `tests/models/test_families.py`.
    """
    state = jax.eval_shape(lambda: init(config, jax.random.key(0), spec))
    equalized = hasattr(config, "style_size")
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        *above, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        value: Any = 0
        if "opt_state" in above:
            pass
        elif name in ("kernel", "embedding", "const", "u"):
            value = rng.normal(size=leaf.shape)
            if not equalized:
                value /= math.sqrt(math.prod(leaf.shape[:-1]))
            elif re.search(r"/fc\d", "/".join(above)):
                value /= MAPPING_RATE
        elif name in ("scale", "var", "sigma") or above[-1:] == ["affine"]:
            value = 1
        elif name == "augment_p":
            value = getattr(config, name)
        # NumPy spreads it without a program for each shape.
        return jnp.asarray(np.broadcast_to(np.asarray(value, leaf.dtype), leaf.shape))

    state = jax.tree_util.tree_map_with_path(draw, state)
    if state.ema is None:
        return state
    is_gan = hasattr(state, "generator")
    ema = state.generator.variables if is_gan else state.model.params
    return dataclasses.replace(state, ema=ema)


def drawn_flow(config: glow.GlowConfig, spec: ImageSpec, noise: float) -> glow.Variables:
    """Return variables of Glow with nothing at a special value: noise about the identity.

    The last layers of its networks are noise as well, which are 0 in `init`.
    """
    state = jax.eval_shape(lambda: glow.init(config, jax.random.key(0), spec))
    variables = glow.Variables(state.model.params, state.model.stats["constants"])
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        *_, module, name = (str(part.key) for part in path[1:])
        if name == "permutation":
            orders = np.argsort(rng.random(leaf.shape[:-1]), axis=-1)
            value = np.eye(leaf.shape[-1])[orders]
        elif name == "sign":
            value = rng.choice([-1.0, 1.0], leaf.shape)
        else:
            value = noise * rng.normal(size=leaf.shape)
            if name == "scale":
                value += 1
            elif (module, name) == ("conv1x1", "kernel"):
                value += np.eye(leaf.shape[-1])
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)
