import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.signal import upfirdn as scipy_upfirdn

from genjax.nn.resample import (
    BINOMIAL,
    as_convolution,
    as_slices,
    downsample,
    upfirdn,
    upsample,
)


def _along(x, taps, axis, up, down, before, after):
    """Resample along one axis by SciPy: insert zeros after each sample, pad, filter, select."""
    x = np.moveaxis(x, axis, -1)
    spread = np.zeros((*x.shape[:-1], x.shape[-1] * up))
    spread[..., ::up] = x
    pads = [(0, 0)] * (x.ndim - 1) + [(max(0, before), max(0, after))]
    spread = np.pad(spread, pads)
    spread = spread[..., max(0, -before) : spread.shape[-1] - max(0, -after)]
    full = scipy_upfirdn(np.asarray(taps), spread, 1, 1, axis=-1)
    valid = full[..., len(taps) - 1 : spread.shape[-1]]
    return np.moveaxis(valid[..., ::down], -1, axis)


FORMS = (as_slices, as_convolution)
CASES = [
    (BINOMIAL, 1, 1, (0, 0, 0, 0)),
    (BINOMIAL, 2, 1, (2, 1, 2, 1)),
    (BINOMIAL, 1, 2, (1, 1, 1, 1)),
    ((1, 2, 5, 3, 1), 2, 3, (3, 0, 1, 2)),
    ((1, -2, 4), 3, 2, (0, 4, -1, 3)),
    ((1, 2, 3, 4, 5, 6, 7), (1, 3), (2, 1), (-1, 3, 5, -2)),
]


@pytest.mark.device
@pytest.mark.parametrize(("taps", "up", "down", "padding"), CASES)
def test_it_is_that_of_scipy(taps, up, down, padding):
    x = np.random.default_rng(0).normal(size=(2, 11, 9, 3)).astype(np.float32)
    ups, downs = (np.broadcast_to(value, 2) for value in (up, down))
    expected = _along(x, taps, 1, ups[0], downs[0], *padding[:2])
    expected = 1.5 * _along(expected, taps, 2, ups[1], downs[1], *padding[2:])
    filters = (taps, np.outer(taps, taps))
    ways = list(itertools.product(filters, FORMS))

    @jax.jit
    def every(x):
        return [upfirdn(x, each, up, down, padding, 1.5, form) for each, form in ways]

    for found in every(x):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.device
@pytest.mark.parametrize(("taps", "up", "down", "padding"), CASES)
def test_gradients_of_two_orders(taps, up, down, padding):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 8, 1)), jnp.float32)
    for form in FORMS:
        function = jax.jit(lambda x: jnp.sin(upfirdn(x, taps, up, down, padding, form=form)))  # noqa: B023
        check_grads(function, (x,), 2, ["rev"], rtol=2e-2)


def test_a_tpu_convolves_in_bfloat16_and_others_add_slices_up():
    def program(platform):
        x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
        traced = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(upsample(x))))).trace(x)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    count = {name: program(name).count("stablehlo.convolution") for name in ("tpu", "cuda", "cpu")}
    assert count == {"tpu": 4, "cuda": 0, "cpu": 0}


def test_it_is_linear_and_its_gradient_its_transpose():
    x = jax.random.normal(jax.random.key(0), (1, 6, 10, 2))
    y, transpose = jax.vjp(lambda x: upfirdn(x, (1, 2, 4), 3, 2, (1, 2, 3, 4)), x)
    v = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(jnp.vdot(y, v), jnp.vdot(x, transpose(v)[0]), rtol=1e-5)


def test_sizes_are_doubled_and_halved_in_place():
    """A ramp stays the same ramp away from the borders, so nothing moves to a side."""
    x = jnp.tile(jnp.arange(16.0).reshape(1, 16, 1, 1), (1, 1, 16, 1))
    twice = upsample(x)
    assert twice.shape == (1, 32, 32, 1)
    np.testing.assert_allclose(twice[0, 4:-4, 16, 0], (np.arange(4, 28) + 0.5) / 2 - 0.5, atol=1e-5)
    half = downsample(x)
    assert half.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(half[0, 1:-1, 4, 0], 2 * np.arange(1, 7) + 0.5, atol=1e-5)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="empty output"):
        upfirdn(jnp.zeros((1, 2, 2, 1)), BINOMIAL)
    with pytest.raises(ValueError, match=r"wants \[B, H, W, C\]"):
        upfirdn(jnp.zeros((2, 2, 1)), BINOMIAL)


@pytest.mark.device
def test_it_is_the_references(shared):
    """The reference has cases with flipped filters, of one axis or two, cropped and padded."""
    file = np.load(shared / "reference/a/stylegan2_ops_a.npz")
    calls = json.loads(str(file["meta"]))["calls"]
    x = file["in/x"].transpose(0, 2, 3, 1)
    for name, call in calls["upfirdn2d"].items():
        kind, taps = call["fn"], np.ones((1, 1))
        if call["filter"] is not None:
            taps = file[f"out/setup_filter/{call['filter']}"].astype(np.float64)
        if call.get("flip_filter", False):
            taps = taps[::-1] if taps.ndim == 1 else taps[::-1, ::-1]
        size = np.array(taps.shape if taps.ndim == 2 else (len(taps), len(taps)))
        # The reference has the order (x, y), and for four numbers x, x, y, y.
        up, down = (np.broadcast_to(call.get(key, 1), 2)[::-1] for key in ("up", "down"))
        padding = np.ravel(call.get("padding", 0))
        padding = {1: np.repeat(padding, 4), 2: np.repeat(padding, 2), 4: padding}[len(padding)]
        rows, columns = np.array(padding[2:]), np.array(padding[:2])
        gain = call.get("gain", 1.0)
        if kind == "filter2d":
            rows, columns = (
                np.add(pad, [n // 2, (n - 1) // 2])
                for pad, n in zip((rows, columns), size, strict=True)
            )
        elif kind == "upsample2d":
            up, gain = np.array([2, 2]), gain * 4
            rows, columns = (
                np.add(pad, [(n + 1) // 2, (n - 2) // 2])
                for pad, n in zip((rows, columns), size, strict=True)
            )
        elif kind == "downsample2d":
            down = np.array([2, 2])
            rows, columns = (
                np.add(pad, [(n - 1) // 2, (n - 2) // 2])
                for pad, n in zip((rows, columns), size, strict=True)
            )
        run = functools.partial(
            upfirdn,
            taps=taps,
            up=tuple(map(int, up)),
            down=tuple(map(int, down)),
            padding=(*rows, *columns),
            gain=gain,
        )
        found = jax.jit(run)(x)
        expected = file[f"out/upfirdn2d/{name}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=2e-6 * np.abs(expected).max(), err_msg=name
        )
