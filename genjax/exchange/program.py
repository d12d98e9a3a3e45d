"""Programs: a trained model's sampling with its weights, which jax runs without genjax."""

import jax
import jax.numpy as jnp
from jax import export

from genjax.data.broken import first_line
from genjax.figures.sample import SampleOptions, prepared
from genjax.run.trained import Trained
from genjax.types import UsageError

SUFFIX = ".stablehlo"
# What a program runs on; for a CPU it has other convolutions inside.
PLATFORMS = ("cpu", "cuda", "tpu")
# The seed of the noise that standing batch statistics come from (see `Family.prepare`).
SEED = 0


def to_program(trained: Trained, options: SampleOptions) -> bytes:
    """Serialize the sampling of a model as StableHLO, for `jax.export.deserialize`.

    Its `call(key, labels)` maps a key, uint32 [2] of `jax.random.PRNGKey`, and the class of each
    image, int32 [n] for any n, to images, uint8 [n, H, W, C]. An unconditional model takes n from
    the labels, no more. With a key of the same seed the first 64 images are those of
    `genjax.sample`, up to rounding; a family with standing batch statistics has those of seed 0.

    Args:
        trained: The model.
        options: Options from `sample_options`, which become part of the program.
    """
    recipe = trained.recipe
    state = prepared(recipe, trained.state, jax.random.key(SEED), **options)

    @jax.jit
    def program(key: jax.Array, labels: jax.Array) -> jax.Array:
        first = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), 0)
        images = recipe.functions.sample(recipe.model, state, first, labels, **options)
        # As `to_uint8` rounds them.
        return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)

    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    labels = jax.ShapeDtypeStruct(export.symbolic_shape("n"), jnp.int32)
    try:
        return bytes(export.export(program, platforms=PLATFORMS)(key, labels).serialize())
    except Exception as error:  # of every class, from a family's functions
        raise UsageError(
            f"family {recipe.family!r}: its sample cannot be exported for any number of images, "
            f"such as labels.shape[0] is (len wants a number): {first_line(error):.200}"
        ) from error
