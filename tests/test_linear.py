"""A linear function with its own transpose: every order and mode of derivative, and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from genjax.linear import linear_call

transposed: list[object] = []


def _product(w, x):
    return {"y": jnp.sin(w["a"]) @ x, "z": w["b"] * x}


def _transpose(w, y):
    transposed.append(y)
    return jnp.sin(w["a"]).T @ y["y"] + w["b"] * y["z"]


def f(w, x):
    return linear_call(_product, _transpose, w, x)


@pytest.fixture
def args():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        w = {"a": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=2))}
        yield w, jnp.asarray(rng.normal(size=2))


def test_derivatives_of_every_order_and_mode(args):
    check_grads(f, args, order=3)
    check_grads(jax.jit(f), args, order=2)


def test_reverse_mode_takes_the_given_transpose(args):
    transposed.clear()
    w, x = args
    jax.jvp(lambda x: f(w, x), (x,), (x,))
    assert not transposed
    jax.grad(lambda x: jnp.sum(f(w, x)["y"]))(x)
    assert len(transposed) == 1


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0), ({"a": None, "b": 1}, 0)])
def test_vmap_and_its_gradient_are_those_of_a_loop(args, axes):
    rows = jnp.arange(1.0, 5.0)

    def stacked(tree, axis):
        if isinstance(axis, dict):
            return {name: stacked(tree[name], axis[name]) for name in tree}
        if axis is None:
            return tree
        return jax.tree.map(lambda leaf: jnp.stack([leaf * row for row in rows], axis), tree)

    def total(w, x, function):
        y = jax.vmap(function, axes)(w, x)
        return jnp.sum(jnp.tanh(y["y"])) + jnp.sum(y["z"] ** 2)

    given = [stacked(arg, axis) for arg, axis in zip(args, axes, strict=True)]
    found, expected = (
        jax.value_and_grad(total, (0, 1))(*given, function) for function in (f, _product)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)
