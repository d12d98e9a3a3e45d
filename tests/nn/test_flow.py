import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import transforms
from genjax.nn.batch import BATCH_AXIS
from genjax.nn.flow import (
    ActNorm,
    CheckerboardCoupling,
    Coupling,
    InvertibleConv1x1,
    Prior,
    ZeroConv,
    actnorm_params,
)

C = 4


def _x(*shape, dtype="float32"):
    return jax.random.normal(jax.random.key(0), shape or (3, 4, 6, C)).astype(dtype)


def _noise(tree, scale):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), tree)


def _drawn(module, scale, *args):
    """Return variables that are noise, also of the layers that are 0 at first."""
    return _noise(jax.eval_shape(module.init, jax.random.key(0), *args), scale)


def _context(channels):
    return jax.random.normal(jax.random.key(5), (1, 1, 1, channels))


CASES = {
    "actnorm": (ActNorm(C), ()),
    **{
        f"conv1x1 {kind}": (InvertibleConv1x1(C, kind), ())
        for kind in ("lu", "plain", "shuffle", "reverse")
    },
    "affine": (lambda dtype: Coupling(C, 5, True, dtype), ()),
    "additive": (lambda dtype: Coupling(C, 5, False, dtype), ()),
    "affine, conditional": (lambda dtype: Coupling(C, 5, True, dtype), (3,)),
    "checkerboard 0": (lambda dtype: CheckerboardCoupling(C, 5, 0, True, dtype), ()),
    "checkerboard 1": (lambda dtype: CheckerboardCoupling(C, 5, 1, False, dtype), (2,)),
}
QUICK = ("actnorm", "conv1x1 lu", "additive")


@pytest.mark.device
# In float32 it is the same code, to fewer digits.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float64") for name in CASES),
        *(
            pytest.param(name, "float32", marks=[] if name in QUICK else pytest.mark.slow)
            for name in CASES
        ),
    ],
)
def test_a_layer_comes_back_and_its_log_det_is_the_oracles(name, dtype):
    tolerance = {"float64": 1e-9, "float32": 1e-4}[dtype]
    with jax.enable_x64(dtype == "float64"):
        module, channels = CASES[name]
        context = [_context(*channels)] if channels else []
        x = _x(2, 2, 4, C, dtype=dtype)
        if isinstance(module, (ActNorm, InvertibleConv1x1)):
            variables = module.init(jax.random.key(3), x)  # near which it is easily inverted
            params = variables.get("params", {})
            variables |= {"params": jax.tree.map(jnp.add, params, _noise(params, 0.2))}
        else:
            module = module(dtype)
            variables = _drawn(module, 0.2, x, *context)
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)

        @jax.jit
        def there_and_back(x):
            bijection = transforms.from_module(module, *context)(variables)
            y, log_det = bijection.forward(x)
            expected = transforms.log_det(lambda x: bijection.forward(x)[0])(x)
            return y, log_det, *bijection.inverse(y), expected

        y, log_det, again, back, expected = there_and_back(x)
        assert y.shape == x.shape
        assert not np.allclose(y, x)
        chex.assert_type([log_det, back], dtype)
        np.testing.assert_allclose(again, x, rtol=0, atol=tolerance)
        np.testing.assert_allclose(log_det, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(back, -log_det, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shift", [30.0, -30.0])
def test_an_affine_coupling_is_finite_at_extreme_scales(shift):
    module = Coupling(C, 5)
    x = _x()
    variables = _drawn(module, 0.0, x)
    bias = variables["params"]["net"]["output"]["bias"]
    variables["params"]["net"]["output"]["bias"] = bias.at[: C // 2].set(shift)

    @jax.jit
    def there_and_back(variables):
        y, log_det = module.apply(variables, x)
        return y, log_det, module.apply(variables, y, method="inverse")[0]

    y, log_det, again = there_and_back(variables)
    chex.assert_tree_all_finite((y, log_det, again))
    # sigmoid(32) is 1; sigmoid(-28) is exp(-28).
    expected = 0.0 if shift > 0 else -28.0 * 4 * 6 * C // 2
    np.testing.assert_allclose(log_det, expected, rtol=1e-5, atol=1e-3)
    grads = jax.jit(jax.grad(lambda v: jnp.sum(module.apply(v, x)[1])))(variables)
    chex.assert_tree_all_finite(grads)


def test_actnorm_params_normalize_each_channel():
    x = 3 * _x(8, 5, 5, C) + jnp.arange(C).reshape(1, 1, 1, C)
    y, _ = ActNorm(C).apply({"params": actnorm_params(x)}, x)
    np.testing.assert_allclose(jnp.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(y, (0, 1, 2)), 1, rtol=1e-4)


def test_actnorm_params_are_of_the_global_batch():
    x = _x(16, 2, 2, C)
    expected = actnorm_params(x)
    found = jax.pmap(actnorm_params, axis_name=BATCH_AXIS)(x.reshape(8, 2, 2, 2, C))
    for replica in (0, 5):
        ours = jax.tree.map(lambda leaf: leaf[replica], found)  # noqa: B023
        chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_channel_without_variance_keeps_a_finite_gain():
    chex.assert_tree_all_finite(actnorm_params(jnp.ones((4, 2, 2, C))))


@pytest.mark.parametrize("kind", ["lu", "plain"])
def test_a_convolution_begins_as_a_rotation(kind):
    module = InvertibleConv1x1(8, kind)
    one, other = (module.init(jax.random.key(i), _x(1, 2, 2, 8)) for i in (0, 1))
    weight = module.apply(one, method="weight")
    np.testing.assert_allclose(weight @ weight.T, np.eye(8), atol=1e-5)
    assert not np.allclose(weight, module.apply(other, method="weight"), atol=0.1)


def test_permutations_permute():
    x = _x(1, 1, 1, 16)
    orders = []
    for kind in ("shuffle", "reverse"):
        module = InvertibleConv1x1(16, kind)
        variables = module.init(jax.random.key(1), x)
        assert "params" not in variables
        y, _ = module.apply(variables, x)
        orders.append(np.argsort(np.argsort(x.ravel()))[np.argsort(np.argsort(y.ravel()))])
        np.testing.assert_array_equal(np.sort(y.ravel()), np.sort(x.ravel()))
    np.testing.assert_array_equal(y.ravel(), x.ravel()[::-1])
    assert not np.array_equal(*orders)


def test_a_zero_conv_is_padded_with_one():
    """The expected values are from lax; by the padding the network can tell where the border is."""
    x = _x(2, 5, 4, 3)
    module = ZeroConv(6)
    variables = _drawn(module, 0.3, x)
    params = variables["params"]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    expected = jax.lax.conv_general_dilated(
        padded, params["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    gain = jnp.exp(3 * params["log_scale"])
    expected = (expected + params["bias"].reshape(1, 1, 1, -1)) * gain.reshape(1, 1, 1, -1)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(module.apply(module.init(jax.random.key(0), x), x), 0)


def test_a_coupling_changes_one_half_and_depends_on_its_context():
    x, module = _x(), Coupling(C, 5)
    contexts = [jnp.eye(3)[i].reshape(1, 1, 1, 3) for i in (0, 1)]
    variables = _drawn(module, 0.3, x, contexts[0])
    first, second = (module.apply(variables, x, context)[0] for context in contexts)
    np.testing.assert_array_equal(first[..., : C // 2], x[..., : C // 2])
    assert not np.allclose(first[..., C // 2 :], second[..., C // 2 :], atol=1e-3)


def test_a_checkerboard_keeps_one_colour():
    x = _x()
    colour = (np.arange(4)[:, None] + np.arange(6)) % 2
    for parity in (0, 1):
        module = CheckerboardCoupling(C, 5, parity)
        y, _ = module.apply(_drawn(module, 0.3, x), x)
        kept = colour == parity
        np.testing.assert_array_equal(y[:, kept], x[:, kept])
        assert np.all(np.abs(y - x)[:, ~kept].max(axis=(0, 2)) > 1e-3)


@pytest.mark.device
def test_networks_in_bfloat16_leave_values_and_log_dets_in_float32():
    x, module = _x(), Coupling(C, 5, dtype="bfloat16")
    variables = _drawn(module, 0.1, x)
    y, log_det = module.apply(variables, x)
    again, _ = module.apply(variables, y, method="inverse")
    chex.assert_type([y, log_det], jnp.float32)
    np.testing.assert_allclose(again, x, atol=1e-5)
    expected, _ = Coupling(C, 5).apply(variables, x)
    np.testing.assert_allclose(y, expected, atol=0.05)


def test_a_prior_is_a_normal_distribution_given_the_rest():
    h, z = _x(3, 2, 2, 5), _x(3, 2, 2, 2)
    module = Prior(2)
    variables = _drawn(module, 0.2, z, h)
    mean, log_scale = jnp.split(
        ZeroConv(4).apply({"params": variables["params"]["net"]}, h), 2, axis=-1
    )
    y, log_det = module.apply(variables, z, h)
    ours = log_det + jnp.sum(jax.scipy.stats.norm.logpdf(y), (1, 2, 3))
    density = jax.scipy.stats.norm.logpdf(z, mean, jnp.exp(log_scale))
    np.testing.assert_allclose(ours, jnp.sum(density, (1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(module.apply(variables, y, h, method="inverse")[0], z, atol=1e-5)
