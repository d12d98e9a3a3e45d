"""The precision of matrix products and convolutions: a policy for every platform.

By default a TPU rounds the float32 factors of a product to bfloat16, and a GPU since Ampere to
TF32, 8 and 11 binary digits in place of 24. A CPU rounds nothing. Products are of two kinds:

- those of the layers of networks (`nn.conv`, the dense layers, attention): their factors have the
  type that `--dtype` says, and are rounded as `--precision` allows;
- all others, and those of networks that measure rather than learn, are `exact`: float32 without
  rounding on every platform. Norms and distances come from them, positions of pixels, maps that are
  to be inverted, and styles, which a whole network amplifies. They are small beside the layers.

`tests/models/test_precision.py` finds each product in the programs of all families and metrics.
"""

from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp

Precision = Literal["default", "high", "highest"]

F = TypeVar("F")


class Context(AbstractContextManager[Any], Protocol):
    """A context for the products that are traced inside it; as a decorator, inside a function."""

    def __call__(self, function: F) -> F: ...


def exact() -> Context:
    """Return the context of products whose float32 factors are not rounded, on any platform.

    The gradients of what is traced inside it are exact too.
    """
    context: Any = jax.default_matmul_precision("highest")
    return context


def widened(x: jax.Array) -> jax.Array:
    """Return x in float32, or in its own type if that is wider, for sums of many terms."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def current() -> str | None:
    """Return the precision of the products that are traced now; None for the platform's own."""
    config: Any = jax.config
    found: str | None = config.jax_default_matmul_precision
    return found
