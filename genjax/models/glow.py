"""Glow: Kingma and Dhariwal 2018 (arXiv:1807.03039); RealNVP (1605.08803) is a configuration of it.

A bijection f maps images to latents z with a standard normal density, so the likelihood is exact:

    log p(x) = log N(f(x); 0, I) + log |det df/dx|                      (equations 4 to 6)

f has L levels. A level moves each 2x2 pixels into channels, then takes K steps of flow, each an
actnorm, an invertible 1x1 convolution and a coupling. Then half of the channels leave as latents,
with a learned normal prior given the other half, which go on to the next level (figure 2).
"""

import dataclasses
import math
from typing import Annotated, Any, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from pydantic import Field

from genjax import transforms
from genjax.nn.batch import batch_noise
from genjax.nn.flow import (
    ActNorm,
    CheckerboardCoupling,
    Coupling,
    InvertibleConv1x1,
    Prior,
    actnorm_params,
)
from genjax.nn.labels import append_planes, check_conditional
from genjax.nn.precision import exact
from genjax.objectives.likelihood import (
    bits_per_dim,
    iwae_bound_in_chunks,
    standard_normal_log_prob,
)
from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.steps.state import DensityState, Player
from genjax.steps.update import (
    GradientConfig,
    update_ema,
    update_player,
)
from genjax.transforms import Bijection, Layer
from genjax.types import (
    Batch,
    Family,
    ImageSpec,
    Likelihood,
    Metrics,
    UsageError,
    checked,
    images_of,
)


@checked
class GlowConfig(GradientConfig):
    """The config of Glow."""

    levels: Annotated[int, Field(gt=0, le=16)] = 2
    """Number of levels L; each halves the size of the image."""
    steps_per_level: Annotated[int, Field(gt=0)] = 8
    """Number of steps of flow K at each level."""
    hidden_features: Annotated[int, Field(gt=0)] = 128
    """Hidden channels of the couplings' networks; 512 in the paper."""
    coupling: Literal["affine", "additive"] = "affine"
    """Whether a coupling scales and shifts, or shifts only."""
    permutation: Literal["lu", "plain", "shuffle", "reverse"] = "lu"
    """How channels are mixed: by an invertible 1x1 convolution, LU-decomposed or plain, or by a
    fixed permutation, random (shuffle) or reversing their order."""
    checkerboard_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of two checkerboard couplings before each squeeze (RealNVP); 0 for none."""
    bits: Annotated[int, Field(gt=0, le=8)] = 8
    """Bits of a gray value that are kept; the paper has 5 for faces."""
    dequantization: Literal["uniform", "variational"] = "uniform"
    """Noise within a gray level: uniform, or from a flow that is learned too (Ho et al. 2019)."""
    dequantization_steps: Annotated[int, Field(gt=0)] = 4
    """Steps of flow of the variational dequantization."""
    conditional: bool = False
    """Whether couplings and the last prior see the class label."""
    reversible: bool = False
    """Whether the backward pass recomputes activations by inversion: it takes longer, but its
    memory does not grow with depth."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights, for samples and evaluation; 0 for none."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Compute type of the couplings' networks; the rest stays float32. float64 is for checks, with
    jax_enable_x64 set and parameters of that type."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, beta1=0.9, warmup_steps=1000, clip_norm=1.0
    )
    """The optimizer; without warm-up its first steps throw a deep flow far off."""


class Variables(NamedTuple):
    """Trainable parameters and fixed constants: nested dicts, the same names in both."""

    params: Any
    constants: Any

    def of(self, name: str) -> Self:
        """Return the variables under one name."""
        return type(self)(self.params.get(name, {}), self.constants.get(name, {}))


def _join(children: dict[str, Variables]) -> Variables:
    return Variables(
        {name: child.params for name, child in children.items()},
        {name: child.constants for name, child in children.items()},
    )


# A step that a chain repeats: its modules by name, in order, each with the arguments that its
# functions take after x.
Step = dict[str, tuple[nn.Module, tuple]]


def flow_step(config: GlowConfig, channels: int, context: jax.Array | None) -> Step:
    """Return a step of flow: actnorm, invertible 1x1 convolution, coupling (figure 2a).

    `channels` are those of its input, [B, H, W, C]; the context is [B, H or 1, W or 1, K] or None.
    """
    is_affine = config.coupling == "affine"
    coupling = Coupling(channels, config.hidden_features, is_affine, config.dtype)
    return {
        "actnorm": (ActNorm(channels), ()),
        "conv1x1": (InvertibleConv1x1(channels, config.permutation), ()),
        "coupling": (coupling, (context,)),
    }


def checkerboard_step(config: GlowConfig, channels: int, context: jax.Array | None) -> Step:
    """Return a step of two couplings, one for each checkerboard colour (Dinh et al. 2017, 3.6).

    Channels and context are as in `flow_step`.
    """
    is_affine = config.coupling == "affine"
    step: Step = {}
    for parity in (0, 1):
        coupling = CheckerboardCoupling(
            channels, config.hidden_features, parity, is_affine, config.dtype
        )
        step[f"actnorm_{parity}"] = (ActNorm(channels), ())
        step[f"coupling_{parity}"] = (coupling, (context,))
    return step


def layers_of(step: Step) -> dict[str, Layer]:
    """Return the layers of a step: functions of their variables that give bijections."""
    return {name: transforms.from_module(module, *args) for name, (module, args) in step.items()}


def by_layer(step: Step, variables: Variables) -> dict[str, Any]:
    """Return each layer's variables in a step, as linen's collections."""
    return {name: variables.of(name)._asdict() for name in step}


def chain_of(config: GlowConfig, step: Step, variables: Variables) -> Bijection:
    """Chain K steps, whose variables are stacked on a leading axis, [K, ...]."""
    depth = transforms.reversible if config.reversible else transforms.scanned
    return depth(layers_of(step), by_layer(step, variables))


def init_chain(key: jax.Array, step: Step, count: int, x: jax.Array) -> Variables:
    """Initialize `count` steps from independent keys: variables stacked to [count, ...].

    x [B, H, W, C] has the shape of their input.
    """
    children = {}
    for (name, (module, args)), layer_key in zip(
        step.items(), jax.random.split(key, len(step)), strict=True
    ):
        init = jax.vmap(lambda key: module.init(key, x, *args))  # noqa: B023
        found = init(jax.random.split(layer_key, count))
        children[name] = Variables(found.get("params", {}), found.get("constants", {}))
    return _join(children)


def _fit_chain(step: Step, variables: Variables, x: jax.Array) -> tuple[jax.Array, Variables]:
    """Fit each actnorm of a chain to its input; return the chain's output for x, and variables."""

    def one(x: jax.Array, layers: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        fitted = dict(layers)
        for name, layer in layers_of(step).items():
            if isinstance(step[name][0], ActNorm):
                fitted[name] = layers[name] | {"params": actnorm_params(x)}
            x, _ = layer(fitted[name]).forward(x)
        return x, {name: found["params"] for name, found in fitted.items()}

    x, params = jax.lax.scan(one, x, by_layer(step, variables))
    return x, Variables(params, variables.constants)


def _prior(config: GlowConfig, channels: int, variables: Variables) -> Layer:
    """Return the prior of z, [B, H, W, channels], as a function of h that gives a bijection."""
    module = Prior(channels, config.dtype)
    return lambda h: transforms.from_module(module, h)(variables._asdict())


def _top_prior(
    config: GlowConfig, channels: int, variables: Variables, context: jax.Array | None
) -> Bijection:
    """Return the last prior, given the label if the model is conditional."""
    prior = _prior(config, channels, variables)
    return Bijection(
        lambda z: prior(_top_input(z, context)).forward(z),
        lambda y: prior(_top_input(y, context)).inverse(y),
    )


def _top_input(z: jax.Array, context: jax.Array | None) -> jax.Array:
    """Return the input of the last prior: zeros and the label."""
    return append_planes(jnp.zeros_like(z), context)


def _label_planes(
    config: GlowConfig, spec: ImageSpec, labels: jax.Array | None
) -> jax.Array | None:
    """Return one-hot labels as a context for every pixel, [B, 1, 1, classes], or None."""
    if not config.conditional:
        return None
    return jax.nn.one_hot(labels, spec.classes)[:, None, None]


def levels_of(config: GlowConfig, spec: ImageSpec) -> list[tuple[int, int, int]]:
    """List the (height, width, channels) of each level's input."""
    return [(spec.height >> i, spec.width >> i, spec.channels << i) for i in range(config.levels)]


def latent_shapes(config: GlowConfig, spec: ImageSpec) -> list[tuple[int, int, int]]:
    """List the (height, width, channels) of each level's latents."""
    shapes = [
        (height // 2, width // 2, 2 * channels)
        for height, width, channels in levels_of(config, spec)
    ]
    *early, (height, width, channels) = shapes
    return [*early, (height, width, 2 * channels)]


def flow(
    config: GlowConfig, spec: ImageSpec, variables: Variables, labels: jax.Array | None
) -> Bijection:
    """Return the bijection from images [B, H, W, C] in [-1/2, 1/2) to the levels' latents.

    The latents are a tuple of arrays with the shapes `latent_shapes`, and standard normal under the
    model.
    """
    context = _label_planes(config, spec, labels)
    levels = []
    for i, (_, _, channels) in enumerate(levels_of(config, spec)):
        level = variables.of(f"level_{i}")
        parts = []
        if config.checkerboard_steps:
            step = checkerboard_step(config, channels, context)
            parts.append(chain_of(config, step, level.of("checkerboard")))
        step = flow_step(config, 4 * channels, context)
        parts += [transforms.squeeze, chain_of(config, step, level.of("steps"))]
        if i < config.levels - 1:
            parts.append(transforms.split(_prior(config, 2 * channels, level.of("prior"))))
        else:
            parts.append(_top_prior(config, 4 * channels, level.of("prior"), context))
        levels.append(transforms.chain(*parts))
    return transforms.multi_scale(*levels)


def exact_flow(
    config: GlowConfig, spec: ImageSpec, variables: Variables, labels: jax.Array | None
) -> Bijection:
    """Return `flow` with networks in float32 whose products are not rounded, so that x comes back.

    A network with rounded products is a staircase: an input that comes back with the last digits of
    float32 wrong may be on another step, and the output is then off by the height of a step. The
    likelihood minds none of it: the network may be any function of the half that stays.
    """
    if config.dtype == "bfloat16":
        config = dataclasses.replace(config, dtype="float32")
    return Bijection(*map(exact(), flow(config, spec, variables, labels)))


def noise_flow(config: GlowConfig, variables: Variables, images: jax.Array) -> Bijection:
    """Return the bijection from standard normal noise to noise in (0, 1), both [B, H, W, C].

    Flow++ (Ho et al. 2019, section 3.1): steps of flow whose couplings see the images, and a
    sigmoid.
    """
    context, _ = transforms.squeeze.forward(images)
    step = flow_step(config, context.shape[-1], context)
    return transforms.chain(
        transforms.squeeze,
        chain_of(config, step, variables.of("dequantization")),
        transforms.invert(transforms.squeeze),
        transforms.sigmoid,
    )


def init(config: GlowConfig, key: jax.Array, spec: ImageSpec) -> DensityState:
    """Return the state at step 0, whose weights depend on `key` alone.

    The first training step fits the actnorms to its batch.

    Raises:
        UsageError: The size cannot be halved `levels` times, or a conditional model gets data
            without classes.
    """
    check_conditional(config.conditional, spec)
    if spec.height % 2**config.levels or spec.width % 2**config.levels:
        raise UsageError(
            f"images of {spec.height}x{spec.width}: with levels = {config.levels} both should be "
            f"multiples of {2**config.levels} (--size, --border)"
        )
    context = _label_planes(config, spec, jnp.zeros(1, jnp.int32))
    children = {}
    for i, (height, width, channels) in enumerate(levels_of(config, spec)):
        keys = iter(jax.random.split(jax.random.fold_in(key, i), 3))
        before = jnp.zeros((1, height, width, channels))
        after, _ = transforms.squeeze.forward(before)
        level = {}
        if config.checkerboard_steps:
            step = checkerboard_step(config, channels, context)
            count = config.checkerboard_steps
            level["checkerboard"] = init_chain(next(keys), step, count, before)
        step = flow_step(config, 4 * channels, context)
        level["steps"] = init_chain(next(keys), step, config.steps_per_level, after)
        h = z = after[..., : 2 * channels]
        if i == config.levels - 1:
            h, z = _top_input(after, context), after
        prior = Prior(z.shape[-1], config.dtype).init(next(keys), z, h)
        level["prior"] = Variables(prior["params"], {})
        children[f"level_{i}"] = _join(level)
    if config.dequantization == "variational":
        noise, _ = transforms.squeeze.forward(jnp.zeros((1, *spec.shape)))
        step = flow_step(config, noise.shape[-1], noise)
        noise_key = jax.random.fold_in(key, config.levels)
        children["dequantization"] = init_chain(noise_key, step, config.dequantization_steps, noise)
    return from_variables(config, spec, _join(children), is_fitted=False)


def from_variables(
    config: GlowConfig, spec: ImageSpec, variables: Variables, is_fitted: bool = True
) -> DensityState:
    """Return the state at step 0 with the given variables.

    Args:
        config: The model.
        spec: The shape of the images.
        variables: Parameters and constants.
        is_fitted: Whether the actnorms are final; otherwise they are fitted to the first batch.
    """
    stats = {"constants": variables.constants, "is_fitted": jnp.array(is_fitted)}
    opt_state = create_optimizer(config.optimizer, 0).init(variables.params)
    ema = jax.tree.map(jnp.copy, variables.params) if config.ema_decay else None
    model = Player(variables.params, opt_state, stats)
    return DensityState(jnp.zeros((), jnp.int32), model, spec, ema)


def _variables(state: DensityState) -> Variables:
    """Return the variables for samples and evaluation, averaged if there is a moving average."""
    return Variables(state.sampling_params, state.model.stats["constants"])


def quantize(config: GlowConfig, images: jax.Array) -> jax.Array:
    """Reduce uint8 images to their `bits` highest bits, float32 [B, H, W, C] of 0 to 2^bits - 1."""
    return jnp.floor(images.astype(jnp.float32) / 2 ** (8 - config.bits))


def scale(config: GlowConfig, levels: jax.Array) -> jax.Array:
    """Scale gray levels plus noise in [0, 1), [B, H, W, C], to `flow`'s range, [-1/2, 1/2)."""
    return levels / 2**config.bits - 0.5


def _to_images(config: GlowConfig, x: jax.Array) -> jax.Array:
    """Round x, in [-1/2, 1/2), down to its gray level, and scale to float32 in [-1, 1].

    Gradients pass as if nothing were rounded (Bengio et al. 2013, straight-through).
    """
    highest = 2**config.bits - 1
    x = jnp.nan_to_num(x)  # gray where the inverse overflowed, which `health` reports
    below = np.nextafter(np.float32(highest + 1), np.float32(0))
    levels = jnp.clip((x + 0.5) * 2**config.bits, 0, below)
    images = (levels + lax.stop_gradient(jnp.floor(levels) - levels)) * (2 / highest) - 1
    return images - lax.stop_gradient(jnp.maximum(images - 1, 0))  # it may round to above 1


def _noise(
    config: GlowConfig, variables: Variables, levels: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array | float]:
    """Draw noise u within gray levels, [B, H, W, C], and compute its `log q(u|x)`, [B]."""
    if config.dequantization == "uniform":
        return batch_noise(key, levels.shape, jax.random.uniform), 0.0
    normal = batch_noise(key, levels.shape)
    # The noise flow sees each pixel at the middle of its level, scaled like the input of `flow`.
    noise, log_det = noise_flow(config, variables, scale(config, levels + 0.5)).forward(normal)
    return noise, standard_normal_log_prob(normal.reshape(normal.shape[0], -1)) - log_det


class Terms(NamedTuple):
    """The parts of the log-likelihood, each [B], in nats an image.

    Attributes:
        log_prior: `log N(z; 0, I)` of all latents.
        log_det: `log |det dz/dx|`, including the learned priors.
        log_noise: `log q(u|x)` of the dequantization's noise.
    """

    log_prior: jax.Array
    log_det: jax.Array
    log_noise: jax.Array | float

    def nll(self, config: GlowConfig, spec: ImageSpec) -> jax.Array:
        """Return `-log P(image)` of gray levels, [B]; a level has the width 2^-bits in x."""
        width = math.prod(spec.shape) * config.bits * math.log(2)
        return width - self.log_prior - self.log_det + self.log_noise


def log_prob_terms(
    config: GlowConfig,
    spec: ImageSpec,
    variables: Variables,
    batch: Batch,
    key: jax.Array,
) -> Terms:
    """Compute the parts, [B] each, of the log-likelihood of uint8 images, with noise from `key`."""
    levels = quantize(config, images_of(batch, spec))
    noise, log_noise = _noise(config, variables, levels, key)
    bijection = flow(config, spec, variables, jnp.asarray(batch.labels))
    zs, log_det = bijection.forward(scale(config, levels + noise))
    return Terms(standard_normal_log_prob(flatten(zs)), log_det, log_noise)


def flatten(zs: tuple[jax.Array, ...]) -> jax.Array:
    """Join the latents of all levels to vectors, [B, H * W * C]."""
    return jnp.concatenate([z.reshape(z.shape[0], -1) for z in zs], axis=-1)


def unflatten(config: GlowConfig, spec: ImageSpec, latents: jax.Array) -> tuple[jax.Array, ...]:
    """Split vectors [B, H * W * C] into the latents of all levels: the inverse of `flatten`."""
    shapes = latent_shapes(config, spec)
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = jnp.split(latents, ends, axis=-1)
    return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))


def fit_actnorms(
    config: GlowConfig, spec: ImageSpec, variables: Variables, batch: Batch, key: jax.Array
) -> Variables:
    """Fit the actnorms: on uint8 images [B, H, W, C] each channel gets mean 0 and variance 1.

    See section 3.1.
    """
    levels = quantize(config, images_of(batch, spec))
    children = {}
    if config.dequantization == "variational":
        images, _ = transforms.squeeze.forward(scale(config, levels + 0.5))
        normal, _ = transforms.squeeze.forward(batch_noise(key, levels.shape))
        step = flow_step(config, images.shape[-1], images)
        _, children["dequantization"] = _fit_chain(step, variables.of("dequantization"), normal)
    noise, _ = _noise(config, _join(children), levels, key)
    x = scale(config, levels + noise)
    context = _label_planes(config, spec, jnp.asarray(batch.labels))
    for i, (_, _, channels) in enumerate(levels_of(config, spec)):
        level = variables.of(f"level_{i}")
        fitted = {"prior": level.of("prior")}
        if config.checkerboard_steps:
            step = checkerboard_step(config, channels, context)
            x, fitted["checkerboard"] = _fit_chain(step, level.of("checkerboard"), x)
        x, _ = transforms.squeeze.forward(x)
        x, fitted["steps"] = _fit_chain(
            flow_step(config, 4 * channels, context), level.of("steps"), x
        )
        (x, _), _ = transforms.split().forward(x)
        children[f"level_{i}"] = _join(fitted)
    return _join(children)


def step(
    config: GlowConfig, state: DensityState, batch: Batch, key: jax.Array
) -> tuple[DensityState, Metrics]:
    """Take one step of Adam on uint8 images [B, H, W, C].

    Returns:
        The state after the step, and the metrics `loss` (bits/dim of the batch), its parts
        `log_prior` and `log_det` (bits/dim), and `grad_norm`.
    """
    dimensions = math.prod(state.spec.shape)
    stats = state.model.stats
    constants = stats["constants"]

    def fit(params: Any) -> Any:
        variables = Variables(params, constants)
        return fit_actnorms(config, state.spec, variables, batch, key).params

    params = jax.lax.cond(stats["is_fitted"], lambda params: params, fit, state.model.params)

    def loss_fn(params: Any, carried: Any, batch: Batch) -> tuple[jax.Array, tuple[Any, Metrics]]:
        variables = Variables(params, constants)
        terms = log_prob_terms(config, state.spec, variables, batch, key)
        loss = jnp.mean(bits_per_dim(terms.nll(config, state.spec), dimensions))
        parts = {"log_prior": terms.log_prior, "log_det": terms.log_det}
        means = {name: jnp.mean(bits_per_dim(value, dimensions)) for name, value in parts.items()}
        return loss, (carried, {"loss": loss, **means})

    whole = Batch(images_of(batch, state.spec), jnp.asarray(batch.labels))
    model = Player(
        params, state.model.opt_state, {"constants": constants, "is_fitted": jnp.array(True)}
    )
    optimizer = create_optimizer(config.optimizer, state.step)
    model, metrics = update_player(loss_fn, model, whole, optimizer, config, "grad_norm")
    ema = state.ema
    if ema is not None:
        ema = jax.lax.cond(state.model.stats["is_fitted"], lambda: ema, lambda: params)
    ema = update_ema(ema, model.params, config.ema_decay, state.step)
    return dataclasses.replace(state, step=state.step + 1, model=model, ema=ema), metrics


def encode(config: GlowConfig, state: DensityState, batch: Batch, key: jax.Array) -> jax.Array:
    """Map uint8 images, at the middle of each gray level, to latents [B, H * W * C]."""
    del key
    levels = quantize(config, images_of(batch, state.spec))
    bijection = exact_flow(config, state.spec, _variables(state), jnp.asarray(batch.labels))
    zs, _ = bijection.forward(scale(config, levels + 0.5))
    return flatten(zs)


def decode(
    config: GlowConfig, state: DensityState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Map latents [n, H * W * C] to images of `bits` bits, float32 [n, H, W, C] in [-1, 1]."""
    bijection = exact_flow(config, state.spec, _variables(state), labels)
    x, _ = bijection.inverse(unflatten(config, state.spec, latents))
    return _to_images(config, x)


def sample(
    config: GlowConfig,
    state: DensityState,
    key: jax.Array,
    labels: jax.Array,
    temperature: float = 1.0,
) -> jax.Array:
    """Draw images.

    Args:
        config: The model.
        state: The state.
        key: The PRNG key of the latents.
        labels: int32 [n], one for each image; their classes are used if the model is conditional.
        temperature: Factor of the latents' standard deviation at every level; the paper draws its
            faces with 0.7 (section 6).

    Returns:
        float32 [n, H, W, C] in [-1, 1].
    """
    latents = temperature * jax.random.normal(key, (labels.shape[0], math.prod(state.spec.shape)))
    return decode(config, state, latents, labels)


def evaluate(
    config: GlowConfig,
    state: DensityState,
    batch: Batch,
    key: jax.Array,
    samples: int | None = None,
) -> Likelihood:
    """Estimate the negative log-likelihood of uint8 images in nats.

    One draw of the dequantization's noise gives an unbiased estimate of the bound that training
    maximizes, which is what papers report. More draws give a tighter bound.

    Args:
        config: The model.
        state: The state.
        batch: uint8 images and their labels.
        key: The PRNG key of the noise.
        samples: Number of draws of the noise; None for 1.

    Returns:
        `Likelihood` with `nll` in nats, [B].
    """

    def log_prob(key: jax.Array) -> jax.Array:
        terms = log_prob_terms(config, state.spec, _variables(state), batch, key)
        return -terms.nll(config, state.spec)[None]

    return Likelihood(-iwae_bound_in_chunks(log_prob, key, samples or 1, 1))


def health(config: GlowConfig, state: DensityState, batch: Batch) -> dict[str, jax.Array]:
    """Measure whether the model can still be inverted; the largest values are the worst.

    Returns:
        `round_trip_error`: `max |x - f^-1(f(x))|` of each image, [B], as a fraction of the
        range of gray values; 1 where it is not finite. `overflow_fraction`, []: the fraction of
        samples at temperature 1 in which the inverse overflows, as it may where no data are
        (Behrmann et al. 2021). `condition_number` of each 1x1 convolution, [L * K]; left out where
        all are permutations.
    """
    variables = _variables(state)
    x = scale(config, quantize(config, images_of(batch, state.spec)) + 0.5)
    bijection = exact_flow(config, state.spec, variables, jnp.asarray(batch.labels))
    again, _ = bijection.inverse(bijection.forward(x)[0])
    error = jnp.max(jnp.abs(x - again).reshape(x.shape[0], -1), axis=1)
    z = jax.random.normal(jax.random.key(0), (x.shape[0], x[0].size))
    samples, _ = bijection.inverse(unflatten(config, state.spec, z))
    overflows = ~jnp.all(jnp.isfinite(samples), axis=(1, 2, 3))
    found = {
        "round_trip_error": jnp.where(jnp.isfinite(error), jnp.minimum(error, 1), 1),
        "overflow_fraction": jnp.mean(overflows.astype(jnp.float32)),
    }
    if config.permutation in ("lu", "plain"):
        conditions = []
        for i, (_, _, channels) in enumerate(levels_of(config, state.spec)):
            module = InvertibleConv1x1(4 * channels, config.permutation)
            layer = variables.of(f"level_{i}").of("steps").of("conv1x1")._asdict()
            weights = jax.vmap(lambda layer: module.apply(layer, method="weight"))(layer)  # noqa: B023
            conditions.append(jnp.linalg.cond(weights))
        found["condition_number"] = jnp.concatenate(conditions)
    return found


FAMILY = Family(
    GlowConfig,
    init,
    step,
    sample,
    "Kingma and Dhariwal 2018",
    decode=decode,
    encode=encode,
    evaluate=evaluate,
    health=health,
)
