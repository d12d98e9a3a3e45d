"""Emulation of an accelerator, which rounds the factors of products at default precision."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.programs import Interpreter

PRODUCTS = ("dot_general", "conv_general_dilated")
# The last binary digits of a float32 factor that are rounded away: on no accelerator, on a GPU
# since Ampere (TF32), and on a TPU (bfloat16).
DROPPED = {"float32": 0, "tf32": 13, "bf16": 16}


def is_exact(precision: Any) -> bool:
    """Return whether a product of this precision, as an instruction has it, rounds no factor."""
    return precision == (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


def as_on_accelerator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run(dropped, *args)`, which computes what an accelerator would, up to sums' order.

    Where the code differs by platform, it is that of accelerators. `dropped`, int32 [], is one of
    `DROPPED`; one compiled program is enough for all of them. Gradients of the function have to be
    taken inside it.
    """

    @functools.wraps(function)
    def run(dropped: Any, *args: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        interpreter = _Accelerator(jnp.asarray(dropped, jnp.uint32))
        values = interpreter.evaluate(program.jaxpr, program.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), values)

    return run


class _Accelerator(Interpreter):
    def __init__(self, dropped: jax.Array):
        self._dropped = dropped

    def instruction(self, eqn: Any, args: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name == "platform_index":
            return [next(i for i, names in enumerate(eqn.params["platforms"]) if names is None)]
        if name in PRODUCTS and not is_exact(eqn.params["precision"]):
            args = [self._rounded(x) if x.dtype == jnp.float32 else x for x in args]
        return super().instruction(eqn, args)

    def _rounded(self, x: Any) -> jax.Array:
        """Round to the nearest number without the dropped digits, and half way to the even one."""
        digits, one = lax.bitcast_convert_type(x, jnp.uint32), jnp.uint32(1)
        half = (one << self._dropped) >> 1
        is_odd = (digits >> self._dropped) & one
        digits = ((digits + half - one + is_odd) >> self._dropped) << self._dropped
        return jnp.where(self._dropped == 0, x, lax.bitcast_convert_type(digits, jnp.float32))
