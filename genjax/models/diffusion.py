"""Diffusion models and flow matching: DDPM (arXiv:2006.11239), DDIM, EDM (2206.00364), and others.

Data y turns into noise n on a path `x(s) = alpha(s) y + sigma(s) n`, and a U-Net learns to tell the
two apart at every s, by least squares. Three paths, and what papers predict on each:

    circle:    x = cos(s) y + sin(s) n     noise, data or velocity (DDPM; Nichol and Dhariwal 2021;
                                           Salimans and Ho 2022), at the angles of T time steps
    straight:  x = s y + (1 - s) n         velocity (Liu et al. 2023; Lipman et al. 2023)
    edm:       x = y + s n                 Karras et al. 2022, the network's values preconditioned

With the two estimates each path is walked back from noise to data, by a stochastic sampler or by
the differential equation `dx/ds = alpha' y + sigma' n`, which is a flow: latents are its noise, and
it has an exact likelihood (Song et al. 2021, "Score-based generative modeling", section 4.3).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

from genjax import samplers
from genjax.nn.batch import batch_noise
from genjax.nn.labels import check_conditional
from genjax.nn.unet import UNet, UNetConfig, check_size
from genjax.objectives import paths
from genjax.objectives.likelihood import diffusion_bound, standard_normal_log_prob
from genjax.objectives.paths import Level, additive, circle, straight
from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.steps.state import DensityState
from genjax.steps.update import GradientConfig, create_player, update_ema, update_player
from genjax.types import Batch, Family, ImageSpec, Likelihood, Metrics, checked, images_of

Positive = Annotated[float, Field(gt=0)]
PREDICTIONS = {
    "linear": ("noise", "data", "velocity"),
    "cosine": ("noise", "data", "velocity"),
    "straight": ("velocity",),
    "edm": ("preconditioned",),
}
# Time steps of each image for the estimate of the bound while the model trains.
BOUND_DRAWS = 10


@checked
class DiffusionConfig(GradientConfig):
    """The config of a diffusion model."""

    path: Literal["linear", "cosine", "straight", "edm"] = "linear"
    """Path from data to noise: on a circle with DDPM's linear schedule or the cosine one; straight,
    as in flow matching; or EDM's, where noise is added to data that stay."""
    prediction: Literal["noise", "data", "velocity", "preconditioned"] = "noise"
    """What the network says of a noisy image: its noise, its data or its velocity on the path (a
    straight path has this alone), or EDM's mixture (edm alone)."""
    time_steps: Annotated[int, Field(gt=1, le=2**20)] = 1000
    """linear, cosine: the number T of noise levels. Of all paths: that of the bound."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """linear: variance that the first time step adds."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """linear: variance that the last time step adds."""
    time_sampling: Literal["uniform", "logit_normal"] = "uniform"
    """straight: how training draws s: evenly, or more in the middle (Esser et al. 2024, section
    3.1)."""
    sigma_data: Positive = 0.5
    """edm: standard deviation of the data."""
    sigma_min: Positive = 0.002
    """edm: smallest noise level of samplers and equations."""
    sigma_max: Positive = 80.0
    """Their largest; of linear and cosine the largest ratio of noise to data in an equation."""
    rho: Positive = 7.0
    """The larger, the closer are small levels to one another."""
    log_sigma_mean: float = -1.2
    """edm: mean of the logarithm of the noise levels in training."""
    log_sigma_std: Positive = 1.2
    """edm: its standard deviation."""
    min_snr: Annotated[float, Field(ge=0)] = 0.0
    """Signal-to-noise ratio up to which the error of the data is weighted by that ratio, and above
    by this (Hang et al. 2023, min-SNR: 5); 0 for equal weights of what the network says."""
    sampler: samplers.Sampler = "ancestral"
    """How samples are drawn: DDPM's ancestral sampling, DDIM, or the differential equation by
    Euler's or Heun's method, or that of Dormand and Prince with steps of its own choice."""
    sampling_steps: Annotated[int, Field(gt=0)] = 1000
    """Steps of the sampler (not dopri5), each with one evaluation of the network, or two (heun)."""
    variance: samplers.Variance = "small"
    """ancestral: variance of a step, of q(x_s | x_t, y) or the larger one of q(x_t | x_s)."""
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """ddim: fresh noise; 0 for none, 1 for as much as ancestral sampling has."""
    clip: bool = True
    """ancestral, ddim: whether estimates of the data are clipped to [-1, 1]."""
    ode_steps: Annotated[int, Field(ge=0)] = 20
    """Steps of Runge and Kutta's method between images and latents, and for the likelihood; 0 for
    those that Dormand and Prince's method chooses."""
    ode_tolerance: Positive = 1e-5
    """Largest error of a step of that method, relative and absolute, of a whole batch together."""
    likelihood: Literal["ode", "bound"] = "ode"
    """Likelihood of images: that of the differential equation, but for its steps and the estimate
    of divergences (ode), or the bound of ancestral sampling, of which `eval_nll` is an estimate."""
    dequantization: Literal["none", "uniform"] = "none"
    """Whether training adds uniform noise within a gray level, as the likelihood (ode) always
    does."""
    conditional: bool = False
    """Whether the network sees the class label."""
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """conditional: share of labels that training hides, for guidance."""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """conditional: scale of classifier-free guidance of samples (Ho and Salimans 2022, where it is
    1 + w); 1 for none, which takes half the time."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """Decay of the moving average of the weights, for samples and evaluation; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, losses and updates stay float32."""
    network: UNetConfig = UNetConfig()
    """The U-Net."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=2e-4, beta1=0.9, warmup_steps=5000, clip_norm=1.0
    )
    """The optimizer."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        possible = PREDICTIONS[self.path]
        if self.prediction not in possible:
            wanted = " or ".join(map(repr, possible))
            raise ValueError(
                f"prediction = {self.prediction!r}: with path = {self.path!r} it should be {wanted}"
            )
        if self.path in ("linear", "cosine") and self.sampling_steps > self.time_steps:
            raise ValueError(
                f"sampling_steps = {self.sampling_steps}: should be at most time_steps = "
                f"{self.time_steps}"
            )
        for low, high in (("sigma_min", "sigma_max"), ("beta_start", "beta_end")):
            least, most = getattr(self, low), getattr(self, high)
            if least >= most:
                raise ValueError(f"{low} = {least}: should be less than {high} = {most}")
        if self.guidance != 1 and not (self.conditional and self.label_dropout):
            raise ValueError(
                f"guidance = {self.guidance}: wants a conditional model with label_dropout above 0"
            )
        return self


PATHS = {"linear": circle, "cosine": circle, "straight": straight, "edm": additive}


def angles(config: DiffusionConfig) -> np.ndarray:
    """Return the angle s of each time step on the circle, float64 [T], rising."""
    if config.path == "cosine":
        return paths.angles_of(paths.cosine_betas(config.time_steps))
    betas = paths.linear_betas(config.time_steps, config.beta_start, config.beta_end)
    return paths.angles_of(betas)


def level_at(config: DiffusionConfig, s: Any) -> Level:
    """Return the noise levels at positions s on the path, NumPy's in float64 or jax's, [...]."""
    path = PATHS[config.path]
    return paths.level(path, s, angles(config) if path is circle else None)


def draw_levels(config: DiffusionConfig, key: jax.Array, batch: int) -> Level:
    """Draw the noise levels of a training step, [B]."""
    if config.path == "edm":
        normal = batch_noise(key, (batch,))
        return level_at(config, jnp.exp(config.log_sigma_mean + config.log_sigma_std * normal))
    if config.path == "straight" and config.time_sampling == "logit_normal":
        return level_at(config, jax.nn.sigmoid(batch_noise(key, (batch,))))
    uniform = batch_noise(key, (batch,), jax.random.uniform)
    if config.path == "straight":
        return level_at(config, uniform)
    steps = (uniform * config.time_steps).astype(jnp.int32)
    return level_at(config, angles(config)).in_float32()(steps)


def sampling_grid(config: DiffusionConfig, steps: int, is_ode: bool) -> np.ndarray:
    """Return the positions s of a sampler, from noise to clean data, float64 [steps + 1].

    An equation's ratios of noise to data are spaced as EDM's levels, up to `sigma_max`: above it
    one over alpha makes small errors large.
    """
    if config.path == "straight":
        return np.linspace(0, 1, steps + 1)
    if config.path == "edm":
        return samplers.karras_levels(steps, config.sigma_min, config.sigma_max, config.rho)
    if is_ode:
        least, most = np.minimum(np.tan(angles(config)[[0, -1]]), config.sigma_max)
        return np.arctan(samplers.karras_levels(steps, least, most, config.rho))
    times = samplers.time_steps(config.time_steps, steps, "trailing")
    return np.append(angles(config)[times], 0.0)


def ode_grid(config: DiffusionConfig) -> np.ndarray:
    """Return positions s from the least noise of training to the most, float64 [N + 1]."""
    steps = max(config.ode_steps, 1) + 1
    if config.path == "straight":
        return 1 - np.linspace(0, 1, steps) ** 2
    return sampling_grid(config, steps, is_ode=True)[-2::-1]


def prediction_of(config: DiffusionConfig) -> paths.Prediction:
    """Return what the network predicts."""
    return {
        "noise": paths.noise_prediction,
        "data": paths.data_prediction,
        "velocity": paths.velocity_prediction,
        "preconditioned": paths.preconditioned(config.sigma_data),
    }[config.prediction]


def network(config: DiffusionConfig, spec: ImageSpec) -> UNet:
    """Return the U-Net that `config` describes."""
    return UNet(config.network, spec.channels, spec.classes * config.conditional, config.dtype)


def apply(
    config: DiffusionConfig,
    spec: ImageSpec,
    params: Any,
    x: jax.Array,
    level: Level,
    labels: jax.Array,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Return what the network says of noisy images, float32 [B, H, W, C].

    Args:
        config: The model.
        spec: The shape of the images.
        params: The network's parameters.
        x: Noisy images, [B, H, W, C].
        level: Their noise levels, [B] or [].
        labels: int32 [B], negative where no class is said; an unconditional model ignores them.
        dropout_key: The PRNG key of dropout, for training.
    """
    if config.path == "edm":
        spread = jnp.sqrt(level.over(x).sigma ** 2 + config.sigma_data**2)
        x = x / spread
    time = jnp.broadcast_to(level.time, x.shape[:1])
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    shown = labels if config.conditional else None
    output: Any = network(config, spec).apply(
        {"params": params}, x, time, shown, dropout_key is not None, rngs=rngs
    )
    return jnp.asarray(output)


def init(config: DiffusionConfig, key: jax.Array, spec: ImageSpec) -> DensityState:
    """Return the state at step 0, whose weights depend on `key` alone.

    Raises:
        UsageError: The U-Net does not fit the size of the images, a conditional model gets data
            without classes, or what the sampler needs is not installed.
    """
    check_conditional(config.conditional, spec)
    check_size(config.network, spec)
    if config.sampler == "dopri5" or not config.ode_steps:
        samplers.find_diffrax()
    labels = jnp.zeros(1, jnp.int32) if config.conditional else None
    x = jnp.zeros((1, *spec.shape))
    variables = network(config, spec).init(key, x, jnp.zeros(1), labels, False)
    return from_params(config, spec, variables["params"])


def from_params(config: DiffusionConfig, spec: ImageSpec, params: Any) -> DensityState:
    """Return the state at step 0 with the parameters of the U-Net."""
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else None
    model = create_player({"params": params}, create_optimizer(config.optimizer, 0))
    return DensityState(jnp.zeros((), jnp.int32), model, spec, ema)


def to_data(images: jax.Array, noise: jax.Array | float = 0.5) -> jax.Array:
    """Scale uint8 images to [-1, 1], with noise in [0, 1) within each gray level; 0.5 for none."""
    return (images.astype(jnp.float32) + (noise - 0.5)) / 127.5 - 1


def step(
    config: DiffusionConfig, state: DensityState, batch: Batch, key: jax.Array
) -> tuple[DensityState, Metrics]:
    """Take one step of the optimizer on uint8 images [B, H, W, C].

    Returns:
        The state after the step, and the metrics `loss` (the weighted squared error of a value of
        the network) and `grad_norm`.
    """
    gray_key, level_key, noise_key, label_key, dropout_key = jax.random.split(key, 5)
    prediction = prediction_of(config)

    def loss_fn(params: Any, carried: Any, batch: Batch) -> tuple[jax.Array, tuple[Any, Metrics]]:
        images, labels = batch
        within: jax.Array | float = 0.5
        if config.dequantization == "uniform":
            within = batch_noise(gray_key, images.shape, jax.random.uniform)
        data = to_data(jnp.asarray(images), within)
        noise = batch_noise(noise_key, data.shape)
        level = draw_levels(config, level_key, len(data))
        hidden = batch_noise(label_key, labels.shape, jax.random.uniform) < config.label_dropout
        shown = jnp.where(hidden, -1, labels)
        x = paths.mix(level, data, noise)
        output = apply(config, state.spec, params, x, level, shown, dropout_key)
        errors = paths.squared_error(prediction, level, output, data, noise)
        if config.min_snr:
            errors *= paths.min_snr_weight(prediction, level, config.min_snr)
        loss = jnp.mean(errors)
        return loss, (carried, {"loss": loss})

    whole = Batch(images_of(batch, state.spec), jnp.asarray(batch.labels))
    optimizer = create_optimizer(config.optimizer, state.step)
    model, metrics = update_player(loss_fn, state.model, whole, optimizer, config, "grad_norm")
    ema = update_ema(state.ema, model.params, config.ema_decay, state.step)
    return dataclasses.replace(state, step=state.step + 1, model=model, ema=ema), metrics


def _estimator(
    config: DiffusionConfig, state: DensityState, labels: jax.Array, guidance: float = 1.0
) -> Callable[[jax.Array, Level], tuple[jax.Array, jax.Array]]:
    """Return `estimate(x, level) -> (data, noise)`, with guidance if its scale is not 1."""

    def output_of(x: jax.Array, level: Level, labels: jax.Array) -> jax.Array:
        return apply(config, state.spec, state.sampling_params, x, level, labels)

    def estimate(x: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
        if guidance == 1:
            output = output_of(x, level, labels)
        else:
            both = jnp.concatenate([labels, jnp.full_like(labels, -1)])
            with_class, without = jnp.split(output_of(jnp.concatenate([x, x]), level, both), 2)
            output = paths.guided(with_class, without, guidance)
        return paths.estimates(prediction_of(config), level, x, output)

    return estimate


def _velocity(
    config: DiffusionConfig, state: DensityState, labels: Any, guidance: float = 1.0
) -> samplers.Velocity:
    """Return the velocity dx/ds on the path, with guidance as `_estimator` has it."""
    estimate = _estimator(config, state, jnp.asarray(labels), guidance)

    def velocity(x: jax.Array, s: jax.Array) -> jax.Array:
        level = level_at(config, s)
        data, noise = estimate(x, level)
        return level.alpha_rate * data + level.sigma_rate * noise

    return velocity


def _follow(config: DiffusionConfig, flow: samplers.Velocity, x: Any, times: np.ndarray) -> Any:
    """Integrate along `ode_grid`, or the reverse, by the config's method."""
    if config.ode_steps:
        return samplers.integrate(flow, x, times, "rk4")
    return samplers.integrate_adaptively(flow, x, times[0], times[-1], config.ode_tolerance)


def _noise_scale(config: DiffusionConfig) -> float:
    """Return the standard deviation of x where the samplers begin."""
    return config.sigma_max if config.path == "edm" else 1.0


def sample(
    config: DiffusionConfig,
    state: DensityState,
    key: jax.Array,
    labels: jax.Array,
    sampler: samplers.Sampler | None = None,
    sampling_steps: int | None = None,
    guidance: float | None = None,
) -> jax.Array:
    """Draw images, float32 [n, H, W, C] in [-1, 1], of the classes that `labels` [n] say.

    `sampler`, `sampling_steps` and `guidance` are those of the config where they are None.
    """
    sampler, steps = sampler or config.sampler, sampling_steps or config.sampling_steps
    guidance = config.guidance if guidance is None else guidance
    first_key, step_key = jax.random.split(key)
    shape = (labels.shape[0], *state.spec.shape)
    x = _noise_scale(config) * jax.random.normal(first_key, shape)
    grid = sampling_grid(config, steps, is_ode=sampler not in ("ancestral", "ddim"))
    if sampler == "ancestral" or sampler == "ddim":
        exact = level_at(config, grid)
        levels, estimate = exact.in_float32(), _estimator(config, state, labels, guidance)
        weights = samplers.ddim(exact.alpha, exact.sigma, config.eta)
        if sampler == "ancestral":
            weights = samplers.ancestral(exact.alpha, exact.sigma, config.variance)
        x = samplers.denoise(
            lambda x, index: estimate(x, levels(index)),
            x,
            weights,
            lambda index: jax.random.normal(jax.random.fold_in(step_key, index), shape),
            1.0 if config.clip else None,
        )
        return jnp.clip(x, -1, 1)
    velocity = _velocity(config, state, labels, guidance)
    if sampler == "dopri5":
        least, most = ode_grid(config)[[0, -1]]
        x = samplers.integrate_adaptively(velocity, x, most, least, config.ode_tolerance)
        sampler, grid = "euler", np.array([least, grid[-1]])
    # The velocity at clean data is the least certain one, and would leave noise.
    return jnp.clip(samplers.integrate(velocity, x, grid, sampler, to_end=False), -1, 1)


def encode(config: DiffusionConfig, state: DensityState, batch: Batch, key: jax.Array) -> jax.Array:
    """Map uint8 images to latents [B, H * W * C]: the noise where the differential equation ends.

    Latents of training images are standard normal, as far as the model is right.
    """
    del key
    x = to_data(images_of(batch, state.spec))
    x = _follow(config, _velocity(config, state, batch.labels), x, ode_grid(config))
    return x.reshape(x.shape[0], -1) / _noise_scale(config)


def decode(
    config: DiffusionConfig, state: DensityState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Map latents [n, H * W * C] to images, float32 [n, H, W, C] in [-1, 1]."""
    x = _noise_scale(config) * latents.reshape(-1, *state.spec.shape)
    x = _follow(config, _velocity(config, state, labels), x, ode_grid(config)[::-1])
    return jnp.clip(x, -1, 1)


def ode_log_prob(
    config: DiffusionConfig, state: DensityState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Estimate the log probability of uint8 images under the differential equation, [B], in nats.

    One draw of uniform noise within gray levels makes it a lower bound in the mean (Theis et al.
    2016, section 3.1), and one of Hutchinson's probes leaves it unbiased.
    """
    gray_key, probe_key = jax.random.split(key)
    images = images_of(batch, state.spec)
    x = to_data(images, batch_noise(gray_key, images.shape, jax.random.uniform))
    probe = batch_noise(probe_key, x.shape, jax.random.rademacher).astype(x.dtype)
    velocity = _velocity(config, state, batch.labels)
    flow = samplers.with_divergence(velocity, samplers.hutchinson(probe))
    x, divergence = _follow(config, flow, (x, jnp.zeros(len(x))), ode_grid(config))
    dimensions, scale = math.prod(state.spec.shape), _noise_scale(config)
    prior = standard_normal_log_prob(x.reshape(len(x), -1) / scale)
    return prior + divergence - dimensions * math.log(127.5 * scale)


def bound(
    config: DiffusionConfig,
    state: DensityState,
    batch: Batch,
    key: jax.Array,
    draws: int | None = None,
) -> jax.Array:
    """Compute the negative variational bound of uint8 images, [B], in nats.

    It is that of ancestral sampling with all time steps and the small variance; for `draws` see
    `diffusion_bound`.
    """
    exact = level_at(config, sampling_grid(config, config.time_steps, is_ode=False)[:-1])
    levels, data = exact.in_float32(), to_data(images_of(batch, state.spec))
    estimate = _estimator(config, state, jnp.asarray(batch.labels))

    def data_at(index: jax.Array, noise: jax.Array) -> jax.Array:
        level = levels(index)
        return estimate(paths.mix(level, data, noise), level)[0]

    return diffusion_bound(
        data_at, data, exact.alpha, exact.sigma, key, draws=draws, scale=_noise_scale(config)
    )


def evaluate(
    config: DiffusionConfig,
    state: DensityState,
    batch: Batch,
    key: jax.Array,
    samples: int | None = None,
) -> Likelihood:
    """Estimate the negative log-likelihood of uint8 images in nats, [B], as `likelihood` says.

    It is the mean of `samples` draws; with None it is a quick estimate of the bound.
    """
    if samples is None:
        return Likelihood(bound(config, state, batch, key, BOUND_DRAWS))

    def draw(key: jax.Array) -> jax.Array:
        if config.likelihood == "bound":
            return bound(config, state, batch, key)
        return -ode_log_prob(config, state, batch, key)

    return Likelihood(jnp.mean(jax.lax.map(draw, jax.random.split(key, samples)), axis=0))


FAMILY = Family(
    DiffusionConfig,
    init,
    step,
    sample,
    "Ho, Jain and Abbeel 2020",
    decode=decode,
    encode=encode,
    evaluate=evaluate,
)
