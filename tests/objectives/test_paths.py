"""Paths from data to noise, beside the schedules of diffusers and the equations of EDM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.objectives import paths
from tests.diffusion import PREDICTIONS, Schedule, Vectors

PATHS = {"circle": paths.circle, "straight": paths.straight, "additive": paths.additive}


def _level(path, s):
    return paths.Level(*path.position(s), *path.velocity(s), s)


@pytest.fixture
def schedules(shared):
    return Vectors(shared / "reference/a/diffusion_a_schedule.npz")


@pytest.fixture
def flow(shared):
    return Vectors(shared / "reference/a/diffusion_a_flow.npz")


def test_schedules_match_the_reference(schedules):
    images, noise = schedules.given("x0"), schedules.given("noise")
    for name in schedules.meta["schedules"]:
        schedule = Schedule(schedules, name)
        schedules.check(f"{name}/betas", schedule.betas)
        exact = schedule.levels(schedule.angles)
        schedules.check(f"{name}/alphas_cumprod", exact.alpha**2)
        level = schedule.table(schedules.given("t"))
        schedules.check(f"{name}/add_noise", paths.mix(level, images, noise))
        velocity = paths.velocity_prediction.target(level.over(images), images, noise)
        schedules.check(f"{name}/velocity", velocity)
        x = paths.mix(level, images, noise)
        output = schedule.model(x, level.time)
        for kind, prediction in PREDICTIONS.items():
            errors = paths.squared_error(prediction, level, output, images, noise)
            schedules.check(f"{name}/loss_{kind}_per_example", errors)


def test_the_gradients_of_losses_match_the_reference(schedules):
    images, noise = schedules.given("x0"), schedules.given("noise")
    for name in schedules.meta["schedules"]:
        schedule = Schedule(schedules, name)
        level = schedule.table(schedules.given("t"))
        for kind, prediction in PREDICTIONS.items():

            def loss(model, schedule=schedule, level=level, prediction=prediction):
                schedule._model = model
                output = schedule.model(paths.mix(level, images, noise), level.time)
                return jnp.mean(paths.squared_error(prediction, level, output, images, noise))

            gradient = jax.grad(loss)([schedules.param(f"model.{letter}") for letter in "Kuw"])
            for letter, found in zip("Kuw", gradient, strict=True):
                schedules.check(f"{name}/loss_{kind}_grad/{letter}", found, 1e-5)


def test_the_straight_path_matches_the_reference(flow):
    noise, data, t = flow.given("x0"), flow.given("x1"), flow.given("t")
    level = _level(paths.straight, t)
    flow.check("path/x_t", paths.mix(level, data, noise))
    target = paths.velocity_prediction.target(level.over(data), data, noise)
    flow.check("path/velocity", target)


def test_edm_matches_the_reference(flow):
    arguments = flow.meta["edm"]
    spread = arguments["sigma_data"]
    prediction = paths.preconditioned(spread)
    data, noise, sigma = (flow.given(f"edm/{name}") for name in ("y", "n", "sigma"))
    level = _level(paths.additive, sigma)
    c_skip, c_out, _, _ = prediction.weights(level)
    flow.check("edm/c_skip", c_skip)
    flow.check("edm/c_out", c_out)
    # The weight of the paper makes the error of the data that of the network.
    flow.check("edm/weight", 1 / c_out**2)
    x = paths.mix(level, data, noise)
    kernel, slope, bias = (flow.param(f"edm.{letter}") for letter in "Kuw")

    def output_of(kernel, slope, bias):
        seen = x / jnp.sqrt(sigma**2 + spread**2)[:, None]
        told = (jnp.log(sigma) / 4)[:, None]
        return jnp.matmul(seen, kernel.T, precision="highest") + told * slope[None] + bias[None]

    def loss(*model):
        return jnp.mean(paths.squared_error(prediction, level, output_of(*model), data, noise))

    output = output_of(kernel, slope, bias)
    estimate, _ = paths.estimates(prediction, level, x, output)
    flow.check("edm/denoised", estimate)
    errors = paths.squared_error(prediction, level, output, data, noise)
    flow.check("edm/loss_per_example", errors, 1e-5)
    flow.check("edm/loss", loss(kernel, slope, bias), 1e-5)
    for letter, found in zip(
        "Kuw", jax.grad(loss, argnums=(0, 1, 2))(kernel, slope, bias), strict=True
    ):
        flow.check(f"edm/loss_grad/{letter}", found, 1e-5)


def test_guidance_matches_the_reference(flow):
    scales = flow.given("cfg/scales")
    said, unsaid = flow.given("cfg/cond"), flow.given("cfg/uncond")
    flow.check("cfg/guided", jnp.stack([paths.guided(said, unsaid, each) for each in scales]))


@pytest.mark.parametrize("name", PATHS)
def test_velocities_are_the_derivatives_of_positions(name):
    path, s = PATHS[name], jnp.asarray([0.1, 0.7, 1.2])
    for found, wanted in zip(
        path.velocity(s), jax.jvp(path.position, (s,), (jnp.ones(3),))[1], strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "prediction"),
    [
        *((paths.circle, each) for each in PREDICTIONS.values()),
        (paths.straight, paths.velocity_prediction),
        (paths.additive, paths.preconditioned(0.5)),
    ],
)
def test_a_right_output_gives_data_and_noise_back(path, prediction):
    data, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 1))
    level = _level(path, jnp.asarray([0.2, 0.5, 0.9]))
    x = paths.mix(level, data, noise)
    output = prediction.target(level.over(data), data, noise)
    for found, wanted in zip(
        paths.estimates(prediction, level, x, output), (data, noise), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.all(paths.squared_error(prediction, level, output, data, noise) == 0)


def test_min_snr_is_the_same_whatever_is_predicted():
    """The weighted loss of an estimate of the data does not depend on how it is written."""
    data, noise, estimate = jax.random.normal(jax.random.key(0), (3, 3, 4, 5, 1))
    level = _level(paths.circle, jnp.asarray([0.05, 0.5, 1.4]))
    x, wide = paths.mix(level, data, noise), level.over(data)
    ratio = np.asarray((level.alpha / level.sigma) ** 2)
    wanted = np.minimum(ratio, 5) * np.mean((data - estimate) ** 2, axis=(1, 2, 3))
    assert ratio[0] > 5 > ratio[1]
    for prediction in PREDICTIONS.values():
        a, b, _, _ = prediction.weights(wide)
        output = (estimate - a * x) / b
        weight = paths.min_snr_weight(prediction, level, 5.0)
        error = paths.squared_error(prediction, level, output, data, noise)
        np.testing.assert_allclose(weight * error, wanted, rtol=1e-4)
