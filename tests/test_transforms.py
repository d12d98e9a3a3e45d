import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from genjax import transforms as t

ONE = jnp.ones(())
# A distribution, its params, scipy's distribution function, and scipy's log density.
ELEMENTWISE = {
    "normal": (t.normal, (0.3, 1.7), stats.norm(0.3, 1.7)),
    "laplace": (t.laplace, (0.3, 1.7), stats.laplace(0.3, 1.7)),
    "logistic": (t.logistic, (0.3, 1.7), stats.logistic(0.3, 1.7)),
    "uniform": (t.uniform, (0.3, 1.7), stats.uniform(0.3, 1.7)),
    "log_normal": (t.log_normal, (0.3, 0.7), stats.lognorm(0.7, scale=np.exp(0.3))),
    "gamma": (t.gamma, (2.3, 1.7), stats.gamma(2.3, scale=1 / 1.7)),
    "beta": (t.beta, (2.3, 1.7), stats.beta(2.3, 1.7)),
}
N = 20_000


def _filled(params, shape):
    return tuple(jnp.full(shape, value) for value in params)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_samples_and_log_prob_are_those_of_the_distribution(name):
    distribution, params, expected = ELEMENTWISE[name]
    x = jax.jit(t.reparameterize(distribution))(_filled(params, (N,)), jax.random.key(0))
    assert stats.kstest(np.asarray(x), expected.cdf).pvalue > 1e-3
    log_prob = jax.jit(functools.partial(t.log_prob, distribution))
    found = log_prob(_filled(params, (100,)), x[:100])
    np.testing.assert_allclose(found, expected.logpdf(np.asarray(x[:100])), rtol=1e-4, atol=1e-5)


# d/dparams of E[x^2], in closed form.
SQUARE = {
    # E = mu^2 + sigma^2
    "normal": ((0.3, 1.7), (2 * 0.3, 2 * 1.7)),
    # mu^2 + 2 b^2
    "laplace": ((0.3, 1.7), (2 * 0.3, 4 * 1.7)),
    # mu^2 + pi^2 s^2 / 3
    "logistic": ((0.3, 1.7), (2 * 0.3, 2 * np.pi**2 / 3 * 1.7)),
    # a^2 + a w + w^2 / 3
    "uniform": ((0.3, 1.7), (2 * 0.3 + 1.7, 0.3 + 2 / 3 * 1.7)),
    # exp(2 mu + 2 sigma^2)
    "log_normal": (
        (0.3, 0.5),
        (2 * np.exp(0.6 + 0.5), 4 * 0.5 * np.exp(0.6 + 0.5)),
    ),
    # a (a + 1) / b^2
    "gamma": ((2.3, 1.7), ((2 * 2.3 + 1) / 1.7**2, -2 * 2.3 * 3.3 / 1.7**3)),
    # a (a + 1) / ((a + b) (a + b + 1))
    "beta": (
        (2.0, 3.0),
        (
            (5 * 5 * 6 - 6 * 11) / 900,
            -6 * 11 / 900,
        ),
    ),
}


@pytest.mark.parametrize("name", SQUARE)
def test_the_gradient_of_an_expectation_is_unbiased(name):
    """The mean gradient is within 4 standard errors of the closed form."""
    distribution = ELEMENTWISE[name][0]
    params, expected = SQUARE[name]
    params = tuple(map(jnp.float32, params))
    estimate = t.expectation(jnp.square, distribution)
    grads = jax.jit(jax.vmap(jax.grad(estimate), in_axes=(None, 0)))(
        params, jax.random.split(jax.random.key(1), N)
    )
    for grad, value in zip(grads, expected, strict=True):
        error = np.std(grad) / np.sqrt(N)
        assert error < 0.1 * max(1, abs(value))
        assert abs(np.mean(grad) - value) < 4 * error + 1e-6


def test_dirichlet():
    concentration = jnp.array([1.5, 2.0, 4.0])
    batch = jnp.tile(concentration, (N, 1))
    x = jax.jit(t.reparameterize(t.dirichlet))(batch, jax.random.key(0))
    chex.assert_shape(x, (N, 3))
    x = np.asarray(x)
    np.testing.assert_allclose(np.sum(x, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.mean(x, axis=0), concentration / 7.5, atol=0.01)
    expected = [stats.dirichlet.logpdf(row / row.sum(), concentration) for row in np.float64(x[:5])]
    log_prob = jax.jit(functools.partial(t.log_prob, t.dirichlet))
    np.testing.assert_allclose(log_prob(batch[:5], x[:5]), expected, rtol=1e-4)
    # d/da_0 of E[x_0] = a_0 / A is (A - a_0) / A^2.
    estimate = t.expectation(lambda x: x[0], t.dirichlet)
    keys = jax.random.split(jax.random.key(1), N)
    grads = jax.jit(jax.vmap(jax.grad(estimate), in_axes=(None, 0)))(concentration, keys)
    error = np.std(grads[:, 0]) / np.sqrt(N)
    assert abs(np.mean(grads[:, 0]) - (7.5 - 1.5) / 7.5**2) < 4 * error


def test_gumbel_softmax_nears_the_categorical_distribution():
    logits = jnp.tile(jnp.log(jnp.array([0.2, 0.3, 0.5])), (N, 1))
    x = jax.jit(t.reparameterize(t.gumbel_softmax(0.01)))(logits, jax.random.key(0))
    np.testing.assert_allclose(jnp.sum(x, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(x, axis=0), [0.2, 0.3, 0.5], atol=0.015)
    # At a high temperature the expectation has a gradient: that of finite differences.
    estimate = t.expectation(lambda x: x[..., 0] ** 2, t.gumbel_softmax(1.0), samples=64)
    run = jax.jit(functools.partial(estimate, key=jax.random.key(1)))
    grad = jax.jit(jax.grad(run))(logits[0])
    for i in range(3):
        step = 1e-2 * jax.nn.one_hot(i, 3)
        slope = (run(logits[0] + step) - run(logits[0] - step)) / 2e-2
        np.testing.assert_allclose(grad[i], slope, atol=1e-3)
    with pytest.raises(ValueError, match="no log_prob"):
        t.log_prob(t.gumbel_softmax(1.0), logits, x)


def test_much_less_variance_than_the_score_function():
    params = (jnp.float32(0.3), jnp.float32(1.7))
    keys = jax.random.split(jax.random.key(0), N)

    def score(params, key):
        x = jax.lax.stop_gradient(t.reparameterize(t.normal)(params, key))
        return x**2 * t.log_prob(t.normal, params, x)

    pathwise = jax.vmap(jax.grad(t.expectation(jnp.square, t.normal)), in_axes=(None, 0))
    by_score = jax.vmap(jax.grad(score), in_axes=(None, 0))
    found = (jax.jit(each)(params, keys) for each in (pathwise, by_score))
    for ours, theirs in zip(*found, strict=True):
        error = np.std(theirs) / np.sqrt(N)
        assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error
        assert np.var(ours) < 0.3 * np.var(theirs)


def test_samples_are_averaged_and_lower_the_variance():
    params = (jnp.float32(0.3), jnp.float32(1.7))
    keys = jax.random.split(jax.random.key(0), 4000)
    one, many = (
        jax.jit(jax.vmap(jax.grad(t.expectation(jnp.square, t.normal, n)), in_axes=(None, 0)))(
            params, keys
        )[1]
        for n in (1, 16)
    )
    np.testing.assert_allclose(np.var(many), np.var(one) / 16, rtol=0.15)


def test_sticking_the_landing():
    """The ELBO's gradient at the posterior itself is 0 in every draw, not only in the mean."""
    mean, std = 1.2, 0.6

    def integrand(z, log_q):
        return jax.scipy.stats.norm.logpdf(z, mean, std) - log_q(z)

    keys = jax.random.split(jax.random.key(0), 2000)

    @jax.jit
    def gradients(params):
        of_draw = (
            jax.grad(t.expectation_with_log_prob(integrand, t.normal, 1, stick))
            for stick in (True, False)
        )
        return [jax.vmap(each, in_axes=(None, 0))(params, keys) for each in of_draw]

    for params, is_posterior in (((mean, std), True), ((0.9, 0.8), False)):
        stuck, plain = gradients(tuple(map(jnp.float32, params)))
        for a, b in zip(stuck, plain, strict=True):
            error = np.hypot(np.std(a), np.std(b)) / np.sqrt(len(keys))
            assert abs(np.mean(a) - np.mean(b)) < 4 * error
        if is_posterior:
            assert np.max(np.abs(stuck)) < 1e-5
            assert max(np.std(b) for b in plain) > 0.5


def test_composes_with_jit_vmap_grad_and_scan():
    params = _filled((0.3, 1.7), (5,))
    sample = t.reparameterize(t.normal)
    keys = jax.random.split(jax.random.key(0), 3)
    apart = jnp.stack([sample(params, key) for key in keys])
    np.testing.assert_allclose(jax.jit(jax.vmap(sample, (None, 0)))(params, keys), apart, rtol=1e-6)
    _, scanned = jax.lax.scan(lambda carry, key: (carry, sample(params, key)), 0, keys)
    np.testing.assert_allclose(scanned, apart, rtol=1e-6)
    second = jax.jit(jax.grad(jax.grad(lambda s: jnp.sum(sample((ONE, s), keys[0]) ** 2))))(ONE)
    noise = t.normal.noise(keys[0], (ONE, ONE))
    np.testing.assert_allclose(second, 2 * noise**2, rtol=1e-5)


def test_noise_may_not_carry_gradients():
    leaky = t.normal._replace(noise=lambda key, params: params[0] * jax.random.normal(key))
    grad = jax.grad(lambda m: t.reparameterize(leaky)((m, ONE), jax.random.key(0)))(ONE)
    assert grad == 1


# Bijections. Every log-determinant is held to the oracle, `log_det`, by its whole Jacobian.


def _linear_layer(params):
    """Multiply all values of an example by a matrix, near the identity to be invertible."""
    weight = jnp.eye(len(params["w"])) + params["w"]
    inverse = jnp.linalg.inv(weight)
    log_det = jnp.linalg.slogdet(weight)[1]
    return t.Bijection(
        lambda x: (x @ weight.T, jnp.full(len(x), log_det)),
        lambda y: (y @ inverse.T, jnp.full(len(y), -log_det)),
    )


def _bend_layer(params):
    return t.elementwise(
        lambda x: jnp.sinh(x) + params["b"], lambda y: jnp.arcsinh(y - params["b"])
    )


LAYERS = {"bend": _bend_layer, "linear": _linear_layer}


def _stacked(depth, size):
    key = jax.random.key(1)
    return {
        "bend": {"b": 0.3 * jax.random.normal(key, (depth,))},
        "linear": {"w": 0.2 * jax.random.normal(key, (depth, size, size))},
    }


def _normal(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def _affine():
    """Return an affine bijection, the same for all examples, so each can be checked alone."""
    shift, log_scale = _normal(1, 4), 0.3 * _normal(1, 4)[:, ::-1]

    def of(x):
        return t.affine(*(jnp.broadcast_to(value, x.shape) for value in (shift, log_scale)))

    return t.Bijection(lambda x: of(x).forward(x), lambda y: of(y).inverse(y))


def _split_by_prior():
    return t.split(lambda h: t.affine(h, jnp.tanh(h)))


BIJECTIONS = {
    "elementwise": (lambda: t.elementwise(jnp.sinh, jnp.arcsinh), (3, 4)),
    "falling": (lambda: t.elementwise(lambda x: -2 * x, lambda y: -y / 2), (3, 4)),
    "sigmoid": (lambda: t.sigmoid, (3, 4)),
    "affine": (_affine, (3, 4)),
    "squeeze": (lambda: t.squeeze, (2, 4, 6, 3)),
    "split": (t.split, (2, 3, 5)),
    "split with a prior": (_split_by_prior, (3, 4)),
    "chain": (lambda: t.chain(_affine(), t.sigmoid, t.invert(t.sigmoid), _affine()), (3, 4)),
    "scanned": (lambda: t.scanned(LAYERS, _stacked(3, 4)), (3, 4)),
    "reversible": (lambda: t.reversible(LAYERS, _stacked(3, 4)), (3, 4)),
    "multi-scale": (
        lambda: t.multi_scale(
            t.chain(t.squeeze, _split_by_prior()),
            t.chain(t.squeeze, _split_by_prior()),
            t.elementwise(jnp.sinh, jnp.arcsinh),
        ),
        (2, 4, 4, 1),
    ),
}


@pytest.mark.parametrize("name", BIJECTIONS)
@pytest.mark.parametrize("x64", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_bijection_comes_back_and_its_log_det_is_the_oracles(name, x64):
    tolerance = 1e-9 if x64 else 2e-5
    with jax.enable_x64(x64):
        make, shape = BIJECTIONS[name]
        bijection, x = make(), 0.5 * _normal(*shape)

        @jax.jit
        def there_and_back(x):
            y, log_det = bijection.forward(x)
            expected = t.log_det(lambda x: bijection.forward(x)[0])(x)
            other = t.log_det(lambda y: bijection.inverse(y)[0])(y)
            return log_det, expected, bijection.inverse(y), other, t.invert(bijection).forward(y)

        log_det, expected, (again, back), other, inverse = there_and_back(x)
        chex.assert_shape([log_det, back], (len(x),))
        np.testing.assert_allclose(again, x, rtol=0, atol=tolerance * 10)
        np.testing.assert_allclose(log_det, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(back, other, rtol=0, atol=tolerance)
        np.testing.assert_allclose(log_det, -back, rtol=0, atol=tolerance)
        chex.assert_trees_all_equal(inverse, (again, back))


def test_the_oracle_knows_a_determinant():
    weight = jnp.array([[2.0, 1.0], [4.0, -3.0]])
    found = t.log_det(lambda x: x @ weight.T)(_normal(5, 2))
    np.testing.assert_allclose(found, np.log(10), rtol=1e-6)


def test_chain_goes_from_left_to_right():
    double = t.elementwise(lambda x: 2 * x, lambda y: y / 2)
    add = t.elementwise(lambda x: x + 1, lambda y: y - 1)
    y, _ = t.chain(double, add).forward(jnp.full((1, 1), 3.0))
    assert y.item() == 7


def test_squeeze_takes_blocks_of_pixels_to_channels():
    x = jnp.arange(2 * 2 * 3).reshape(1, 2, 2, 3)
    y, _ = t.squeeze.forward(x)
    # The pixel (dy, dx) of channel c goes to channel 4 c + 2 dy + dx.
    np.testing.assert_array_equal(y.ravel(), [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11])
    with pytest.raises(ValueError, match="3x4"):
        t.squeeze.forward(jnp.zeros((1, 3, 4, 1)))


def test_the_sigmoid_is_finite_far_out():
    x = jnp.array([[-80.0], [0.0], [80.0]])
    _, log_det = t.sigmoid.forward(x)
    np.testing.assert_allclose(log_det, [-80, 2 * np.log(0.5), -80], rtol=1e-6)


def test_log_dets_are_float32_under_bfloat16():
    x = jnp.full((2, 64, 64, 4), 0.01, jnp.bfloat16)
    stretch = t.elementwise(lambda x: 1.25 * x, lambda y: y / 1.25)
    for bijection in (stretch, t.chain(stretch, t.squeeze), t.affine(x, jnp.full_like(x, 0.5))):
        _, log_det = bijection.forward(x)
        chex.assert_type(log_det, jnp.float32)
    # In bfloat16 the sum would stop growing at 256.
    _, log_det = stretch.forward(x)
    np.testing.assert_allclose(log_det, 64 * 64 * 4 * np.log(1.25), rtol=1e-2)


def _loss(make, layers, params, x, direction):
    y, log_det = getattr(make(layers, params), direction)(x)
    return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)) + jnp.sum(log_det**2)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_reversible_has_the_gradients_of_plain_autodiff(direction):
    with jax.enable_x64(True):
        params, x = _stacked(6, 4), 0.1 * _normal(3, 4)
        values = [
            jax.jit(
                jax.value_and_grad(
                    lambda params, x, make=make: _loss(make, LAYERS, params, x, direction), (0, 1)
                )
            )(params, x)
            for make in (t.scanned, t.reversible)
        ]
        chex.assert_trees_all_close(*values, rtol=1e-9, atol=1e-9)
        size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(values[0][1]))
        assert size > 1


def test_the_hessian_of_a_reversible_flow_is_that_of_the_plain_one():
    """Of the log-likelihood in the parameters, as a Laplace approximation wants it."""
    with jax.enable_x64(True):
        params, x = _stacked(2, 2), 0.1 * _normal(3, 2)
        flat, unravel = ravel_pytree(params)

        def log_prob(make, flat):
            y, log_det = make(LAYERS, unravel(flat)).forward(x)
            return jnp.sum(jax.scipy.stats.norm.logpdf(y)) + jnp.sum(log_det)

        expected = jax.jit(jax.hessian(functools.partial(log_prob, t.scanned)))(flat)
        for hessian in (jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
            found = jax.jit(hessian(functools.partial(log_prob, t.reversible)))(flat)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        assert jnp.max(jnp.abs(expected)) > 1


def test_reversible_keeps_only_the_output():
    """The gradient's memory hardly grows from depth 16 to 64; that of plain autodiff does."""
    x = jnp.ones((64, 32))

    def temporary(make, depth):
        loss = jax.grad(lambda params, x: _loss(make, LAYERS, params, x, "forward"))
        compiled = jax.jit(loss).lower(_stacked(depth, 32), x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(t.scanned, 64) - temporary(t.scanned, 16) > 48 * x.nbytes
    # At most the reversed copy of the parameters remains.
    per_step = 32 * 32 * 4 + 4
    assert temporary(t.reversible, 64) - temporary(t.reversible, 16) < 2 * 48 * per_step


@pytest.mark.parametrize("make", [t.scanned, t.reversible])
def test_bijections_compose_with_vmap_and_scan(make):
    params, x = _stacked(3, 4), 0.3 * _normal(5, 2, 4)
    bijection = make(LAYERS, params)
    grad = jax.grad(lambda x: _loss(make, LAYERS, params, x, "forward"))

    @jax.jit
    def values(x):
        return bijection.forward(x), grad(x)

    found = jax.jit(jax.vmap(values))(x)
    expected = jax.tree.map(lambda *each: jnp.stack(each), *map(values, x))
    chex.assert_trees_all_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)

    def there_and_back(x, _):
        return bijection.inverse(bijection.forward(x)[0])[0], None

    last, _ = jax.jit(lambda x: jax.lax.scan(there_and_back, x, None, 3))(x[0])
    np.testing.assert_allclose(last, x[0], atol=1e-5)


def test_what_a_reversible_layer_closes_over_gets_no_gradient():
    def loss(shift):
        layers = {"affine": lambda log_scale: t.affine(shift, log_scale)}
        y, _ = t.reversible(layers, {"affine": jnp.zeros((2, 3, 4))}).forward(_normal(3, 4))
        return jnp.sum(y)

    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax.grad(loss)(jnp.zeros((3, 4)))
