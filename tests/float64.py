"""Evaluation of a function's program in float64, so that tests can compare to the last digit."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

# Instructions that hold a program of their own, which is evaluated in their place.
CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")


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
        values = _evaluate(program.jaxpr, program.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), values)

    return run


def _narrow(dtype: Any) -> Any:
    return jnp.float32 if dtype == jnp.float64 else dtype


def _wide(dtype: Any) -> Any:
    return jnp.dtype("float64") if dtype == jnp.float32 else dtype


def _widen(x: Any) -> Any:
    return x.astype(jnp.float64) if getattr(x, "dtype", None) == jnp.float32 else x


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip(jaxpr.constvars, map(_widen, consts), strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        if isinstance(atom, core.Literal):
            aval: Any = atom.aval
            return np.asarray(atom.val, _wide(aval.dtype))
        return values[atom]

    for eqn in jaxpr.eqns:
        outputs = _apply(eqn, [read(atom) for atom in eqn.invars])
        values |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _function(closed: Any) -> Callable[..., list[Any]]:
    if not hasattr(closed, "jaxpr"):  # without constants
        return lambda *args: _evaluate(closed, (), args)
    return lambda *args: _evaluate(closed.jaxpr, closed.consts, args)


def _apply(eqn: Any, args: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        return _function(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])(*args)
    if name == "cond":
        index, *operands = args
        return lax.switch(index, [_function(branch) for branch in params["branches"]], *operands)
    if name == "scan":
        return _scan(eqn, args)
    if name == "while":
        return _while(params, args)
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


def _scan(eqn: Any, args: list[Any]) -> list[Any]:
    params, jaxpr = eqn.params, eqn.params["jaxpr"]

    # How an equation says which arguments are scanned differs between versions of jax; they are
    # those, at the end, of which the body sees one row.
    def scanned(outer: Any, inner: Any) -> int:
        return sum(one.ndim > other.ndim for one, other in zip(outer, inner, strict=True))

    num_xs = scanned([atom.aval for atom in eqn.invars], jaxpr.in_avals)
    num_ys = scanned([atom.aval for atom in eqn.outvars], jaxpr.out_avals)
    first_x, num_carry = len(args) - num_xs, len(eqn.outvars) - num_ys
    first_carry = first_x - num_carry
    consts, carry, xs = args[:first_carry], args[first_carry:first_x], args[first_x:]
    body = _function(params["jaxpr"])

    def one(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = body(*consts, *carry, *x)
        return outputs[: len(carry)], outputs[len(carry) :]

    carry, ys = lax.scan(one, carry, xs, params["length"], params["reverse"])
    return [*carry, *ys]


def _while(params: dict[str, Any], args: list[Any]) -> list[Any]:
    ends = np.cumsum([params["cond_nconsts"], params["body_nconsts"]])
    of_test, of_body, state = args[: ends[0]], args[ends[0] : ends[1]], args[ends[1] :]
    test, body = _function(params["cond_jaxpr"]), _function(params["body_jaxpr"])
    return lax.while_loop(lambda s: test(*of_test, *s)[0], lambda s: body(*of_body, *s), state)
