"""Evaluation of a function's program in float64, so that tests can compare to the last digit."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.programs import Interpreter


def to_float64(tree: Any) -> Any:
    """Convert the float32 leaves of a pytree to float64."""
    return jax.tree.map(lambda x: _widen(jnp.asarray(x)), tree)


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Trace `function` as it is, then compute all of its float32 values in float64.

    It has to be called within `jax.enable_x64(True)`, of arguments as `to_float64` gives them.
    Random bits stay what they are, so the draws are those of the function itself, and so do all of
    its choices by type or shape: it is the program that users run, to 16 digits in place of 7.
    """

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        narrow = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, _narrow(x.dtype)),
            jax.tree.map(jnp.asarray, args),
        )
        with jax.enable_x64(False):
            program, shapes = jax.make_jaxpr(function, return_shape=True)(*narrow)
        values = _InFloat64().evaluate(program.jaxpr, program.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), values)

    return run


def _narrow(dtype: Any) -> Any:
    return jnp.float32 if dtype == jnp.float64 else dtype


def _wide(dtype: Any) -> Any:
    return jnp.dtype("float64") if dtype == jnp.float32 else dtype


def _widen(x: Any) -> Any:
    return x.astype(jnp.float64) if getattr(x, "dtype", None) == jnp.float32 else x


class _InFloat64(Interpreter):
    def constant(self, x: Any) -> Any:
        return _widen(x)

    def literal(self, atom: Any) -> Any:
        return np.asarray(atom.val, _wide(atom.aval.dtype))

    def instruction(self, eqn: Any, args: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        if name == "reduce_precision":  # of what a gradient keeps: to the type that it has anyway
            return args
        if name == "scatter-add":
            names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
            return [lax.scatter_add(*args, **{name: params[name] for name in names})]
        if name == "bitcast_convert_type":  # random bits are those of a float32
            return [_widen(lax.bitcast_convert_type(args[0], params["new_dtype"]))]
        assert not any(hasattr(value, "eqns") for value in params.values()), name
        params = {
            key: _wide(value) if isinstance(value, (np.dtype, type)) else value
            for key, value in params.items()
        }
        outputs = eqn.primitive.bind(*args, **params)
        return outputs if eqn.primitive.multiple_results else [outputs]
