"""Shapes and types of `objectives`, `transforms` and `metrics`: batches, vmap, gradients of two
orders, bfloat16 and float64, and mistakes that broadcasting would hide."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from genjax import transforms as t
from genjax.metrics.classes import calibration_error, class_coverage, inception_score
from genjax.metrics.energy import energy_distance
from genjax.metrics.frechet import Moments, frechet_distance, frechet_distance_error
from genjax.metrics.kernel import kernel_distance, squared_mmd
from genjax.metrics.neighbours import prdc
from genjax.metrics.sharpness import sharpness
from genjax.objectives import adversarial, likelihood, penalties

B, D, IMAGE = 4, 3, (4, 3, 2, 1)


def _critic(x):
    return jnp.sum(jnp.sin(x.reshape(len(x), -1)) * (1 + x.reshape(len(x), -1) ** 2), axis=1)


def _generator(styles):
    return jnp.tanh(styles.reshape(4, 3, 2, 1) * 2)


DISTRIBUTIONS = {
    name: getattr(t, name)
    for name in ("normal", "laplace", "logistic", "log_normal", "gamma", "beta")
}
# A function of arrays, the shapes of its arguments, and that of its result. The arguments are drawn
# from [0.2, 0.8], where all are defined.
FUNCTIONS = {
    **{
        f"{name} {player}": (loss, [(B,)] * count, (B,))
        for name, pair in adversarial.ADVERSARIAL_LOSSES.items()
        for player, loss, count in (
            ("d", pair.discriminator_loss, 2),
            ("g", pair.generator_loss, 2 if pair.is_relativistic else 1),
        )
    },
    "wasserstein d": (adversarial.wasserstein_critic_loss, [(B,), (B,)], (B,)),
    "norm": (functools.partial(penalties.input_gradient_norm, _critic), [IMAGE], (B,)),
    "r1": (functools.partial(penalties.r1_penalty, _critic), [IMAGE], (B,)),
    "gradient penalty": (functools.partial(penalties.gradient_penalty, _critic), [IMAGE], (B,)),
    "path lengths": (
        functools.partial(penalties.path_lengths, _generator),
        [(B, D, 2), IMAGE],
        (B,),
    ),
    "interpolate": (penalties.interpolate, [IMAGE, IMAGE, (B,)], IMAGE),
    "perturb": (penalties.perturb, [IMAGE, (), IMAGE], IMAGE),
    "orthogonal": (penalties.orthogonal_penalty, [(3, 3, 2, 4)], ()),
    "kl": (likelihood.normal_kl, [(B, D), (B, D)], (B, D)),
    "standard normal": (likelihood.standard_normal_log_prob, [(2, B, D)], (2, B)),
    "bernoulli": (likelihood.bernoulli_log_likelihood, [(1, *IMAGE), (2, *IMAGE)], (2, B)),
    "normal images": (
        likelihood.normal_log_likelihood,
        [IMAGE, IMAGE, (1, 1, 1, 1)],
        (B,),
    ),
    "logistic images": (
        likelihood.discretized_logistic_log_likelihood,
        [IMAGE, IMAGE, (1, 1, 1, 1)],
        (B,),
    ),
    "discretized normal images": (
        likelihood.discretized_normal_log_likelihood,
        [IMAGE, IMAGE, (1, 1, 1, 1)],
        (B,),
    ),
    "elbo": (likelihood.elbo, [(B,), (B,)], (B,)),
    "free bits": (functools.partial(likelihood.free_bits, minimum=0.5), [(D,)], ()),
    "iwae": (likelihood.iwae_bound, [(5, B)], (B,)),
    "iwae of more axes": (likelihood.iwae_bound, [(5, 2, B)], (2, B)),
    "energy distance": (energy_distance, [(5, D), (B, D)], ()),
    "affine by features": (
        lambda m, s, x: t.affine(m, s).forward(x)[1],
        [(D,), (D,), (B, D)],
        (B,),
    ),
    "elementwise": (lambda x: t.elementwise(jnp.sinh, jnp.arcsinh).forward(x)[1], [(B, D)], (B,)),
    "logit": (lambda x: t.sigmoid.inverse(x)[1], [(B, D)], (B,)),
    "dirichlet": (functools.partial(t.log_prob, t.dirichlet), [(D,), (B, D)], (B,)),
    **{
        f"log_prob {name}": (
            lambda a, b, x, d=distribution: t.log_prob(d, (a, b), x),
            [(D,), (), (B, D)],
            (B, D),
        )
        for name, distribution in DISTRIBUTIONS.items()
    },
}
# Their result is of the type of what they are given; all others sum, in float32 or wider.
ELEMENTWISE = (
    "interpolate",
    "perturb",
    "kl",
    "elbo",
    "log_prob",
    "wasserstein",
    *adversarial.ADVERSARIAL_LOSSES,
)
# At an argument of the case, a kink, or a function without a second derivative.
FIRST_ORDER = ("free bits",)


def _args(shapes, dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.uniform(0.2, 0.8, shape), dtype) for shape in shapes]


@pytest.fixture(autouse=True)
def _ranks_may_differ():
    """Let parameters of features broadcast to batches, as everywhere but in these tests."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_and_types(name):
    """Traced only: what is given in one type comes back in that type, sums in float32 or wider."""
    function, shapes, shape = FUNCTIONS[name]

    def result(dtype, run=function, batch=()):
        args = [jax.ShapeDtypeStruct((*batch, *each), dtype) for each in shapes]
        found = jax.eval_shape(run, *args)
        return found.shape, found.dtype

    rounded = jnp.bfloat16 if name.startswith(ELEMENTWISE) else jnp.float32
    assert result(jnp.bfloat16) == (shape, rounded)
    assert result(jnp.float32, jax.vmap(function), (2,)) == ((2, *shape), jnp.float32)
    with jax.enable_x64(True):
        assert result(jnp.float32) == (shape, jnp.float32)
        assert result(jnp.float64) == (shape, jnp.float64)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients(name):
    function, shapes, _ = FUNCTIONS[name]
    single = function(*_args(shapes, jnp.float32))
    mapped = jax.vmap(function)(*(jnp.stack([x, x]) for x in _args(shapes, jnp.float32)))
    np.testing.assert_allclose(mapped, jnp.stack([single, single]), rtol=1e-5, atol=1e-6)
    with jax.enable_x64(True):
        args = _args(shapes, jnp.float64)
        np.testing.assert_allclose(function(*args), single, rtol=1e-4, atol=1e-5)
        order = 1 if name in FIRST_ORDER else 2
        check_grads(function, args, order, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "params"),
    [(n, [(D,), ()]) for n in ("normal", "laplace", "logistic", "uniform", "gamma", "beta")]
    + [("log_normal", [(B, 1), (D,)]), ("dirichlet", [(D,)]), ("gumbel_softmax", [(D,)])],
)
def test_draws_have_the_shape_and_the_type_of_the_params(name, params):
    distribution = t.gumbel_softmax(0.5) if name == "gumbel_softmax" else getattr(t, name)
    shape = (B, D) if name == "log_normal" else (D,)

    def draw(dtype):
        args = _args(params, dtype)
        args = args[0] if len(args) == 1 else tuple(args)
        found = jax.eval_shape(t.reparameterize(distribution), args, jax.random.key(1))
        return found.shape, found.dtype

    assert draw(jnp.float32) == draw(jnp.bfloat16) == (shape, jnp.float32)
    with jax.enable_x64(True):
        assert draw(jnp.float32) == (shape, jnp.float32)
        assert draw(jnp.float64) == (shape, jnp.float64)


@pytest.mark.parametrize(
    ("shift", "log_scale"),
    [((D,), (D,)), ((), ()), ((B, 1), (D,)), ((1, D), (B, D)), ((D,), ()), ((B, D), (B, 1))],
)
def test_affine_by_features_by_examples_and_by_one_number(shift, log_scale):
    """A bijection of all examples together: the sum of log-dets is that of the whole Jacobian."""
    t_, s, x = _args([shift, log_scale, (B, D)], jnp.float32)
    bijection = t.affine(t_, s)
    for run, values in ((bijection.forward, x), (bijection.inverse, x)):
        y, log_det = run(values)
        assert y.shape == x.shape and log_det.shape == (B,)
        jacobian = jax.jacfwd(lambda x, run=run: run(x)[0])(values)
        blocks = jnp.stack([jacobian[i, :, i] for i in range(B)])
        np.testing.assert_allclose(log_det, jnp.linalg.slogdet(blocks)[1], rtol=1e-5)
    again, _ = bijection.inverse(bijection.forward(x)[0])
    np.testing.assert_allclose(again, x, rtol=1e-5)


def test_other_layers_by_features():
    """Per-feature, conditional and per-channel layers, in a chain and in both kinds of loops."""
    scale, x = _args([(2, D), (B, D)], jnp.float32)

    def layer(params):
        bend = t.elementwise(lambda x: jnp.sinh(params * x), lambda y: jnp.arcsinh(y) / params)
        return t.chain(bend, t.affine(params, -params), t.split(lambda h: t.affine(h[:, :1], 0.3)))

    def joined(params):
        return t.chain(layer(params), t.invert(t.split()))

    for make in (t.scanned, t.reversible):
        bijection = make({"one": joined}, {"one": scale})
        y, log_det = bijection.forward(x)
        expected = t.log_det(lambda x, b=bijection: b.forward(x)[0])(x)
        np.testing.assert_allclose(log_det, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(bijection.inverse(y)[0], x, rtol=1e-3)


def _bad_bijection():
    return t.Bijection(lambda x: (x, jnp.zeros(())), lambda y: (y, jnp.zeros(())))


A: Any = np.zeros
M = Moments.of(np.eye(4))
MISTAKES = {
    "affine": (
        lambda: t.affine(jnp.zeros(2), 0.0).forward(jnp.ones((B, D))),
        r"\(4, 3\) by \(2,\)",
    ),
    "affine that adds examples": (
        lambda: t.affine(0.0, jnp.zeros((B, D))).forward(jnp.ones((1, D))),
        r"\(1, 3\) by \(4, 3\)",
    ),
    "no batch": (lambda: t.sigmoid.forward(jnp.ones(())), "wants .B, ...."),
    "log_det": (lambda: t.chain(_bad_bijection()).forward(A((B, D))), r"shape \(\): should be .B."),
    "reducing": (
        lambda: t.elementwise(jnp.sum, jnp.sum).forward(jnp.ones((B, D))),
        r"turns \(4, 3\) into \(\)",
    ),
    "squeeze": (lambda: t.squeeze.forward(A((4, 4, 1))), "wants .B, H, W, C."),
    "unsqueeze": (lambda: t.squeeze.inverse(A((1, 4, 4, 2))), "wants .B, H, W, 4 C."),
    "split": (lambda: t.split().forward(A((B, 1))), "2 channels or more"),
    "dirichlet": (lambda: t.log_prob(t.dirichlet, jnp.ones(1), jnp.ones((B, D))), "wants one K"),
    "samples": (lambda: t.expectation(jnp.sum, t.normal, 0), "samples = 0"),
    "a critic of patches": (lambda: penalties.r1_penalty(lambda x: x[..., 0], A(IMAGE)), "shape"),
    "std of each": (lambda: penalties.perturb(A(IMAGE), A(B), A(IMAGE)), "rank"),
    "noise of one": (
        lambda: penalties.path_lengths(_generator, jnp.ones((B, D, 2)), A((1, 3, 2, 1))),
        "shape",
    ),
    "a bias": (lambda: penalties.orthogonal_penalty(A(3)), "inputs, outputs"),
    "pixels": (lambda: likelihood.bernoulli_log_likelihood(A((B, 1, 1, 1)), A(IMAGE)), "shape"),
    "sides": (lambda: likelihood.bernoulli_log_likelihood(A((B, 2, 3, 1)), A(IMAGE)), "shape"),
    "vectors": (lambda: likelihood.bernoulli_log_likelihood(A((B, D)), A((B, D))), "shape|H, W, C"),
    "free bits": (lambda: likelihood.free_bits(A(D), 0.1, A(1)), "shape"),
    "chunks": (
        lambda: likelihood.iwae_bound_in_chunks(
            lambda k: jnp.zeros((3, B)), jax.random.key(0), 8, 4
        ),
        "dimension",
    ),
    "energy distance": (lambda: energy_distance(A((B, 3, 2)), A((B, 6))), r"\(4, 3, 2\) and"),
    "moments": (lambda: Moments.of(A(B)), r"features: shape \[4\]; wanted \[N, D\]"),
    "frechet": (lambda: frechet_distance(M, Moments.of(A((B, 2)))), "of 4 and of 2"),
    "frechet error": (
        lambda: frechet_distance_error(A((B, 2)), A((B, 1)), np.random.default_rng(0)),
        r"b: shape \[4, 1\]; wanted \[N, 2\]",
    ),
    "mmd": (lambda: squared_mmd(A((B, 2)), A((1, 2))), "4 and 1 examples"),
    "kernel": (lambda: kernel_distance(A((B, 2)), A(B)), r"y: shape \[4\]"),
    "prdc": (lambda: prdc(A((B, 2)), A((B, 3)), 1), r"fake: shape \[4, 3\]"),
    "sharpness": (lambda: sharpness(A((B, 4, 4))), r"wanted \[N, H, W, C\]"),
    "inception score": (lambda: inception_score(A(B), 1), r"logits: shape \[4\]"),
    "coverage": (lambda: class_coverage(np.array([0, 5]), np.array([0]), 5), "classes 0 to 5"),
    "calibration": (
        lambda: calibration_error(A((B, 2)), A(1)),
        r"labels: shape \[1\]; wanted \[4\]",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_shapes_are_refused(name):
    call, message = MISTAKES[name]
    with pytest.raises((ValueError, AssertionError), match=message):
        call()


def test_energy_distance_has_gradients_where_examples_coincide():
    x = jnp.ones((3, 2)).at[0, 0].set(2.0)
    grads = jax.grad(energy_distance)(x, x[:2])
    assert jnp.all(jnp.isfinite(grads)) and jnp.any(grads != 0)
    assert jnp.isnan(energy_distance(x.at[0, 0].set(jnp.nan), x))
