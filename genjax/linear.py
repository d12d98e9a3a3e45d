"""Linear functions that bring their own transpose, for gradients faster or smaller than jax's.

A `jax.custom_vjp` does the same in reverse mode and forbids forward mode (`jax.jvp`, `jax.jacfwd`,
`jax.hessian`). Here the derivative is written once, as a linear function of the tangents; forward
mode evaluates it, and reverse mode transposes it by the function given for that.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def linear_call(
    function: Callable[[Any, Any], Any],
    transpose: Callable[[Any, Any], Any],
    residuals: Any,
    x: Any,
) -> Any:
    """Return `function(residuals, x)`, linear in x, whose derivative in x has its own transpose.

    Like `jax.custom_derivatives.linear_call`, and beyond it differentiable in the residuals, to any
    order that the two functions are, and mapped by `jax.vmap`.

    Args:
        function: `(residuals, x) -> y`, of pytrees of floating-point arrays.
        transpose: `(residuals, y) -> x`, the transpose of `function` in x.
        residuals: What both may use in any way.
        x: What `function` is linear in.
    """
    res_leaves, res_tree = jax.tree.flatten(residuals)
    x_leaves, x_tree = jax.tree.flatten(x)
    split = len(res_leaves)
    y_tree = None

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        nonlocal y_tree
        given = jax.tree.unflatten(res_tree, leaves[:split])
        y, y_tree = jax.tree.flatten(function(given, jax.tree.unflatten(x_tree, leaves[split:])))
        return y

    def flat_transpose(*leaves: jax.Array) -> list[jax.Array]:
        given = jax.tree.unflatten(res_tree, leaves[:split])
        x_bar = transpose(given, jax.tree.unflatten(y_tree, leaves[split:]))
        return jax.tree.leaves(x_bar)

    y = _bind(flat, flat_transpose, split, [*res_leaves, *x_leaves])
    return jax.tree.unflatten(y_tree, y)


def _bind(
    function: Callable[..., list[jax.Array]],
    transpose: Callable[..., list[jax.Array]],
    split: int,
    args: Sequence[Any],
) -> list[Any]:
    """Apply the primitive to flat arguments, of which the first `split` are residuals."""
    jaxpr = jax.make_jaxpr(function)(*args)
    found: list[Any] = _linear.bind(*args, jaxpr=jaxpr, transpose=transpose, split=split)
    return found


def _evaluate(*args: Any, jaxpr: ClosedJaxpr, **_: Any) -> list[Any]:
    found: list[Any] = jaxpr_as_fun(jaxpr)(*args)
    return found


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    split = params["split"]
    y_dots = []
    if any(type(each) is not ad.Zero for each in tangents[split:]):
        x_dot = map(ad.instantiate_zeros, tangents[split:])
        y_dots.append(_linear.bind(*primals[:split], *x_dot, **params))
    moving = [i for i in range(split) if type(tangents[i]) is not ad.Zero]
    if moving:

        def of_moving(*values: Any) -> list[Any]:
            args = list(primals)
            for i, value in zip(moving, values, strict=True):
                args[i] = value
            return _evaluate(*args, jaxpr=params["jaxpr"])

        given = [primals[i] for i in moving], [tangents[i] for i in moving]
        y_dots.append(jax.jvp(of_moving, *given)[1])
    y_dot = jax.tree.map(jnp.add, *y_dots) if len(y_dots) == 2 else y_dots[0]
    return _linear.bind(*primals, **params), y_dot


def _transposed(cotangents: Sequence[Any], *args: Any, **params: Any) -> list[Any]:
    split, jaxpr = params["split"], params["jaxpr"]
    y_bar = map(ad.instantiate_zeros, cotangents)
    x_bar = _bind(params["transpose"], jaxpr_as_fun(jaxpr), split, [*args[:split], *y_bar])
    # A tangent that is known to be zero is an array here, and has no use for a cotangent.
    wanted = [
        each if ad.is_undefined_primal(arg) else None
        for arg, each in zip(args[split:], x_bar, strict=True)
    ]
    return [None] * split + wanted


def _batched(args: Sequence[Any], axes: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    split, transpose, jaxpr = params["split"], params["transpose"], params["jaxpr"]
    args = [
        arg if axis is None else jnp.moveaxis(arg, axis, 0)
        for arg, axis in zip(args, axes, strict=True)
    ]
    in_axes = tuple(None if axis is None else 0 for axis in axes)

    def mapped_transpose(*args: Any) -> list[Any]:
        y_axes = (0,) * (len(args) - split)
        x_bar = jax.vmap(transpose, in_axes[:split] + y_axes)(*args)
        # What all examples share gets the sum of their cotangents.
        return [
            each if axis == 0 else jnp.sum(each, axis=0)
            for each, axis in zip(x_bar, in_axes[split:], strict=True)
        ]

    mapped = jax.vmap(jaxpr_as_fun(jaxpr), in_axes)
    y = _bind(mapped, mapped_transpose, split, args)
    return y, [0] * len(y)


_linear = Primitive("linear")
_linear.multiple_results = True
_linear.def_impl(_evaluate)
_linear.def_abstract_eval(lambda *_, jaxpr, **__: jaxpr.out_avals)
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transposed
batching.primitive_batchers[_linear] = _batched
mlir.register_lowering(_linear, mlir.lower_fun(_evaluate, multiple_results=True))
