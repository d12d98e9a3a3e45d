"""The variational autoencoder: Kingma and Welling 2014 (arXiv:1312.6114), and IWAE (1509.00519).

An encoder maps each image to a normal distribution q(z|x) of latents, a decoder maps latents to a
distribution p(x|z) of images. Both maximize a lower bound of log p(x), differentiated through
reparameterized draws from q:

    ELBO:    E_q log p(x|z) - KL(q(z|x) || p(z))                        (VAE, equation 3)
    IWAE_k:  E_q log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x)               (Burda et al. 2016, eq. 8)

MLP encoders and decoders, such as 784-400-20 and the 784-200-200-50 of Burda et al. with one
stochastic layer; or residual convolutions for images of 16 to 128 pixels.

There is no augmentation but the recipe's mirroring: what the encoder and the decoder see is what
the likelihood is of, so that any other would be learned as data.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

from genjax import transforms
from genjax.nn.batch import batch_noise
from genjax.nn.conv import Conv, ConvTranspose
from genjax.nn.labels import append_labels, check_conditional
from genjax.nn.mlp import hidden_layers
from genjax.nn.residual import ResidualBlock
from genjax.nn.resolution import base_resolution
from genjax.objectives import likelihood
from genjax.steps.diagnostics import active_units
from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.steps.state import DensityState
from genjax.steps.update import (
    GradientConfig,
    create_player,
    mean_by_parts,
    update_ema,
    update_player,
)
from genjax.types import (
    Batch,
    Family,
    ImageSpec,
    Likelihood,
    Metrics,
    checked,
    images_of,
)


@checked
class VaeConfig(GradientConfig):
    """The config of the VAE."""

    network: Literal["mlp", "resnet"] = "mlp"
    """Architecture of encoder and decoder."""
    hidden_sizes: tuple[Annotated[int, Field(gt=0)], ...] = (400,)
    """mlp: units of the encoder's hidden layers; the decoder has them in reverse order."""
    activation: Literal["relu", "tanh"] = "relu"
    """mlp: activation after each hidden layer."""
    features: Annotated[int, Field(gt=0)] = 32
    """resnet: channels of the layer next to the image; they double as the size halves."""
    latent_size: Annotated[int, Field(gt=0)] = 20
    """Size of the latent vector z."""
    likelihood: Literal["bernoulli", "normal", "discretized_logistic"] = "bernoulli"
    """Distribution p(x|z) of each value; all but bernoulli learn a scale for each channel."""
    binarization: Literal["dynamic", "static", "none"] = "dynamic"
    """bernoulli: whether a pixel becomes 1 with its intensity as the probability, drawn anew at
    each step (dynamic) or once for each image (static), or stays gray (none), which gives a cross
    entropy, not a likelihood."""
    bound: Literal["elbo", "iwae"] = "elbo"
    """Bound of the log-likelihood that is maximized."""
    samples: Annotated[int, Field(gt=0)] = 1
    """Draws of z for each image, averaged (elbo) or importance-weighted (iwae)."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """elbo: weight of the KL divergence (beta-VAE)."""
    kl_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """elbo: steps over which the weight of the KL divergence rises from 0 to beta."""
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """elbo: nats of each latent's KL divergence, averaged over the batch, that cost nothing."""
    sticking_the_landing: bool = False
    """elbo: leave the score term out of the gradient, for less variance."""
    conditional: bool = False
    """Whether encoder and decoder see the class label."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights, for samples and evaluation; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, likelihoods and updates stay float32."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, beta1=0.9)
    """The optimizer of encoder and decoder together."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.likelihood != "bernoulli" and self.binarization != "none":
            raise ValueError(
                f"binarization = {self.binarization!r}: with likelihood {self.likelihood!r} it "
                "should be 'none'"
            )
        default = {field.name: field.default for field in dataclasses.fields(VaeConfig)}
        of_elbo = ("beta", "kl_warmup_steps", "free_bits", "sticking_the_landing")
        for name in of_elbo if self.bound == "iwae" else ():
            if getattr(self, name) != default[name]:
                raise ValueError(
                    f"{name} = {getattr(self, name)}: the bound 'iwae' has none; "
                    f"should be {default[name]}"
                )
        if self.sticking_the_landing and self.free_bits:
            raise ValueError(
                f"free_bits = {self.free_bits}: with sticking_the_landing the KL is sampled, not "
                "known for each latent; should be 0.0"
            )
        return self


class Normal(NamedTuple):
    """Normal distributions of latents; mean and log variance are [B, Z]."""

    mean: jax.Array
    log_var: jax.Array


class Output(NamedTuple):
    """The output of a decoder: the parameters of p(x|z).

    Attributes:
        location: Logits of a Bernoulli distribution, else the mean in [-1, 1]; [..., H, W, C].
        log_scale: Log of the scale of the normal or the logistic distribution, [C].
    """

    location: jax.Array
    log_scale: jax.Array


def _heads(x: jax.Array, latent_size: int, dtype: str) -> Normal:
    mean = nn.Dense(latent_size, dtype=dtype, name="mean")(x)
    log_var = nn.Dense(latent_size, dtype=dtype, name="log_var")(x)
    return Normal(mean.astype(jnp.float32), log_var.astype(jnp.float32))


class MlpEncoder(nn.Module):
    """The MLP encoder: images [B, H, W, C] and labels [B] or None -> `Normal`, [B, Z]."""

    config: VaeConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None) -> Normal:
        config = self.config
        x = append_labels(images.reshape(images.shape[0], -1), labels, self.spec.classes)
        x = hidden_layers(x, config.hidden_sizes, getattr(nn, config.activation), config.dtype)
        return _heads(x, config.latent_size, config.dtype)


class MlpDecoder(nn.Module):
    """The MLP decoder: latents [B, Z] and labels [B] or None -> `Output`, [B, H, W, C]."""

    config: VaeConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None) -> Output:
        config = self.config
        x = append_labels(z, labels, self.spec.classes)
        sizes = config.hidden_sizes[::-1]
        x = hidden_layers(x, sizes, getattr(nn, config.activation), config.dtype)
        x = nn.Dense(math.prod(self.spec.shape), dtype=config.dtype, name="output")(x)
        x = x.astype(jnp.float32).reshape(-1, *self.spec.shape)
        return Output(x, _log_scale(self))


class ResNetEncoder(nn.Module):
    """The ResNet encoder: images [B, H, W, C] and labels [B] or None -> `Normal`, [B, Z].

    A strided convolution and a residual block stand for each halving of the size.
    """

    config: VaeConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None) -> Normal:
        config = self.config
        halvings, _ = base_resolution(self.spec)
        x = append_labels(images, labels, self.spec.classes)
        for i in range(halvings):
            features = config.features << i
            x = Conv(features, 4, stride=2, padding=1, dtype=config.dtype, name=f"down_{i}")(x)
            x = ResidualBlock(features, dtype=config.dtype, name=f"block_{i}")(x, train=True)
        return _heads(nn.relu(x).reshape(x.shape[0], -1), config.latent_size, config.dtype)


class ResNetDecoder(nn.Module):
    """The ResNet decoder: latents [B, Z] and labels [B] or None -> `Output`, [B, H, W, C].

    It mirrors the encoder.
    """

    config: VaeConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None) -> Output:
        config = self.config
        halvings, (height, width) = base_resolution(self.spec)
        widths = [config.features << i for i in reversed(range(halvings))]
        x = append_labels(z, labels, self.spec.classes)
        x = nn.Dense(height * width * widths[0], dtype=config.dtype, name="project")(x)
        x = x.reshape(-1, height, width, widths[0])
        for i, features in enumerate((*widths[1:], self.spec.channels)):
            x = ResidualBlock(widths[i], dtype=config.dtype, name=f"block_{i}")(x, train=True)
            up = ConvTranspose(features, 4, stride=2, padding=1, dtype=config.dtype, name=f"up_{i}")
            x = up(nn.relu(x))
        return Output(x.astype(jnp.float32), _log_scale(self))


def _log_scale(decoder: MlpDecoder | ResNetDecoder) -> jax.Array:
    """Return the learned log scale of each channel, [C], for images in [-1, 1]."""
    channels = decoder.spec.channels
    if decoder.config.likelihood == "bernoulli":
        return jnp.zeros(channels)
    scale: jax.Array = decoder.param("log_scale", nn.initializers.constant(-2.0), (channels,))
    return scale


def networks(config: VaeConfig, spec: ImageSpec) -> tuple[nn.Module, nn.Module]:
    """Return the encoder and the decoder that `config` describes."""
    if config.network == "mlp":
        return MlpEncoder(config, spec), MlpDecoder(config, spec)
    return ResNetEncoder(config, spec), ResNetDecoder(config, spec)


def init(config: VaeConfig, key: jax.Array, spec: ImageSpec) -> DensityState:
    """Return the state at step 0, whose weights depend on `key` alone.

    Raises:
        UsageError: The networks do not fit the size of the images, or a conditional model gets data
            without classes.
    """
    check_conditional(config.conditional, spec)
    encoder, decoder = networks(config, spec)
    encoder_key, decoder_key = jax.random.split(key)
    labels = jnp.zeros(1, jnp.int32) if config.conditional else None
    params = {
        "encoder": encoder.init(encoder_key, jnp.zeros((1, *spec.shape)), labels)["params"],
        "decoder": decoder.init(decoder_key, jnp.zeros((1, config.latent_size)), labels)["params"],
    }
    return from_params(config, spec, params)


def from_params(config: VaeConfig, spec: ImageSpec, params: dict) -> DensityState:
    """Return the state at step 0 with the parameters `{"encoder": ..., "decoder": ...}`."""
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else None
    model = create_player({"params": params}, create_optimizer(config.optimizer, 0))
    return DensityState(jnp.zeros((), jnp.int32), model, spec, ema)


def to_inputs(config: VaeConfig, images: jax.Array, key: jax.Array) -> jax.Array:
    """Convert images to what the likelihood takes.

    Args:
        config: The model.
        images: uint8 [B, H, W, C].
        key: The PRNG key of the dynamic binarization.

    Returns:
        float32 [B, H, W, C]: for a Bernoulli likelihood 0 or 1, or gray in [0, 1]; else in [-1, 1].
    """
    if config.likelihood != "bernoulli":
        return images.astype(jnp.float32) / 127.5 - 1
    gray = images.astype(jnp.float32) / 255
    if config.binarization == "none":
        return gray
    if config.binarization == "dynamic":
        noise = batch_noise(key, images.shape, jax.random.uniform)
        return (noise < gray).astype(jnp.float32)
    return (_own_noise(images) < gray).astype(jnp.float32)


def _own_noise(images: jax.Array) -> jax.Array:
    """Return uniform noise [B, H, W, C] that depends on the image alone, so is always the same."""
    odd = np.random.default_rng(0).integers(0, 2**31, images.shape[1:], np.uint32) * 2 + 1
    digests = jnp.sum(images.astype(jnp.uint32) * odd[None], axis=(1, 2, 3), dtype=jnp.uint32)
    keys = jax.vmap(lambda digest: jax.random.fold_in(jax.random.key(0), digest))(digests)
    return jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)


def draw(posterior: Normal, key: jax.Array, samples: int) -> jax.Array:
    """Draw reparameterized latents, [samples, B, Z]."""
    batch, size = posterior.mean.shape
    distribution = transforms.normal._replace(
        # `batch_noise` draws for rows of the batch, so that is the first axis.
        noise=lambda key, _: batch_noise(key, (batch, samples, size)).swapaxes(0, 1)
    )
    sample = transforms.reparameterize(distribution)
    return sample((posterior.mean[None], jnp.exp(0.5 * posterior.log_var)[None]), key)


def apply_encoder(
    config: VaeConfig, spec: ImageSpec, params: Any, images: jax.Array, labels: jax.Array | None
) -> Normal:
    """Return q(z|x) for inputs [B, H, W, C] from `to_inputs`, and labels [B] or None."""
    encoder, _ = networks(config, spec)
    posterior: Any = encoder.apply({"params": params["encoder"]}, images, labels)
    return Normal(*posterior)


def apply_decoder(
    config: VaeConfig, spec: ImageSpec, params: Any, z: jax.Array, labels: jax.Array | None
) -> Output:
    """Decode latents [samples, B, Z], with the labels [B] of the images or None."""
    samples, batch, size = z.shape
    _, decoder = networks(config, spec)
    if labels is not None:
        labels = jnp.repeat(labels, samples)
    # The batch stays the first axis, as in all arrays that are spread.
    z = z.swapaxes(0, 1).reshape(-1, size)
    output: Any = decoder.apply({"params": params["decoder"]}, z, labels)
    location = output.location.reshape(batch, samples, *spec.shape).swapaxes(0, 1)
    return Output(location, output.log_scale)


def log_likelihood(config: VaeConfig, images: jax.Array, output: Output) -> jax.Array:
    """Return `log p(x|z)` in nats, [samples, B], for inputs [B, H, W, C].

    A normal likelihood is a density; it is given per gray level, `log 127.5` less for each value
    than per unit of [-1, 1], so that it can be compared with the probabilities of the others.
    """
    images = images[None]
    if config.likelihood == "bernoulli":
        return likelihood.bernoulli_log_likelihood(images, output.location)
    log_scale = output.log_scale.reshape(1, 1, 1, 1, -1)
    if config.likelihood == "discretized_logistic":
        return likelihood.discretized_logistic_log_likelihood(images, output.location, log_scale)
    density = likelihood.normal_log_likelihood(images, output.location, log_scale)
    return density - math.prod(images.shape[2:]) * math.log(127.5)


class Terms(NamedTuple):
    """The parts of a bound, in nats.

    Attributes:
        log_likelihood: `log p(x|z)`, [samples, B].
        log_ratio: `log p(z) - log q(z|x)`, [samples, B].
        kl: `KL(q(z|x) || p(z))` of each latent, [B, Z].
        mean: The mean of q(z|x), [B, Z].
    """

    log_likelihood: jax.Array
    log_ratio: jax.Array
    kl: jax.Array
    mean: jax.Array


def bound_terms(
    config: VaeConfig,
    spec: ImageSpec,
    params: Any,
    images: jax.Array,
    labels: jax.Array | None,
    key: jax.Array,
    samples: int,
) -> Terms:
    """Compute the parts of the bounds for inputs [B, H, W, C] from `to_inputs`."""
    posterior = apply_encoder(config, spec, params, images, labels)
    z = draw(posterior, key, samples)
    output = apply_decoder(config, spec, params, z, labels)
    seen = jax.lax.stop_gradient(posterior) if config.sticking_the_landing else posterior
    scale = jnp.exp(0.5 * seen.log_var)
    log_q = transforms.log_prob(transforms.normal, (seen.mean[None], scale[None]), z)
    return Terms(
        log_likelihood(config, images, output),
        likelihood.standard_normal_log_prob(z) - jnp.sum(log_q, axis=-1),
        likelihood.normal_kl(posterior.mean, posterior.log_var),
        posterior.mean,
    )


def step(
    config: VaeConfig, state: DensityState, batch: Batch, key: jax.Array
) -> tuple[DensityState, Metrics]:
    """Take one step of Adam on uint8 images [B, H, W, C].

    Returns:
        The state after the step, and the metrics `loss`, `elbo` and `kl` in nats an image,
        `active_units` (the number of latents whose posterior mean varies over the batch),
        `active_fraction` (of all latents) and `grad_norm`.
    """
    input_key, noise_key = jax.random.split(key)
    images = to_inputs(config, images_of(batch, state.spec), input_key)
    labels = jnp.asarray(batch.labels) if config.conditional else None
    beta: float | jax.Array = config.beta
    if config.kl_warmup_steps:
        beta *= jnp.minimum(1.0, state.step / config.kl_warmup_steps)
    params = state.model.params

    def mean_kl(part: Any) -> jax.Array:
        posterior = apply_encoder(config, state.spec, params, *part)
        return jnp.mean(likelihood.normal_kl(*posterior), axis=0)

    # The whole batch decides which latents are above their free bits, before it is cut into parts.
    whole = (images, labels)
    batch_kl = mean_by_parts(mean_kl, whole, config) if config.free_bits else None

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        images, labels = part
        terms = bound_terms(config, state.spec, params, images, labels, noise_key, config.samples)
        fit = jnp.mean(terms.log_likelihood, axis=0)
        kl = jnp.sum(terms.kl, axis=-1)
        if config.bound == "iwae":
            loss = -jnp.mean(likelihood.iwae_bound(terms.log_likelihood + terms.log_ratio))
        elif config.sticking_the_landing:
            sampled = -jnp.mean(terms.log_ratio, axis=0)
            loss = -jnp.mean(likelihood.elbo(fit, sampled, beta))
        elif config.free_bits:
            paid = likelihood.free_bits(jnp.mean(terms.kl, axis=0), config.free_bits, batch_kl)
            loss = beta * paid - jnp.mean(fit)
        else:
            loss = -jnp.mean(likelihood.elbo(fit, kl, beta))
        metrics = {"loss": loss, "elbo": jnp.mean(likelihood.elbo(fit, kl)), "kl": jnp.mean(kl)}
        return loss, (carried, metrics | {"active_units": active_units(terms.mean)})

    optimizer = create_optimizer(config.optimizer, state.step)
    model, metrics = update_player(loss_fn, state.model, whole, optimizer, config, "grad_norm")
    metrics["active_fraction"] = metrics["active_units"] / config.latent_size
    ema = update_ema(state.ema, model.params, config.ema_decay, state.step)
    return dataclasses.replace(state, step=state.step + 1, model=model, ema=ema), metrics


def encode(config: VaeConfig, state: DensityState, batch: Batch, key: jax.Array) -> jax.Array:
    """Map uint8 images to the mean of q(z|x), [B, Z]; `key` draws their binarization."""
    images = to_inputs(config, images_of(batch, state.spec), key)
    labels = jnp.asarray(batch.labels) if config.conditional else None
    return apply_encoder(config, state.spec, state.sampling_params, images, labels).mean


def decode(
    config: VaeConfig, state: DensityState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Map latents [n, Z] to the mean of p(x|z), images float32 [n, H, W, C] in [-1, 1]."""
    seen = labels if config.conditional else None
    output = apply_decoder(config, state.spec, state.sampling_params, latents[None], seen)
    if config.likelihood == "bernoulli":
        return 2 * jax.nn.sigmoid(output.location[0]) - 1
    return jnp.clip(output.location[0], -1, 1)


def sample(config: VaeConfig, state: DensityState, key: jax.Array, labels: jax.Array) -> jax.Array:
    """Draw images, each the mean of p(x|z) at a z from the prior.

    Args:
        config: The model.
        state: The state.
        key: The PRNG key of the latents.
        labels: int32 [n], one for each image; their classes are used if the model is conditional.

    Returns:
        float32 [n, H, W, C] in [-1, 1].
    """
    latents = jax.random.normal(key, (labels.shape[0], config.latent_size))
    return decode(config, state, latents, labels)


def evaluate(
    config: VaeConfig,
    state: DensityState,
    batch: Batch,
    key: jax.Array,
    samples: int | None = None,
) -> Likelihood:
    """Estimate the negative IWAE bound from `samples` draws of z, and the ELBO from up to 50.

    Args:
        config: The model.
        state: The state.
        batch: uint8 images and their labels.
        key: The PRNG key of the binarization and all draws.
        samples: Number of draws; None for `config.samples`. With 1 the bound is the ELBO.

    Returns:
        `Likelihood` in nats, [B] each.
    """
    samples = samples or config.samples
    input_key, noise_key, elbo_key = jax.random.split(key, 3)
    images = to_inputs(config, images_of(batch, state.spec), input_key)
    labels = jnp.asarray(batch.labels) if config.conditional else None
    chunk = likelihood.samples_at_once(samples, math.prod(state.spec.shape))

    def terms(key: jax.Array) -> Terms:
        return bound_terms(config, state.spec, state.sampling_params, images, labels, key, chunk)

    def log_weights(key: jax.Array) -> jax.Array:
        parts = terms(key)
        return parts.log_likelihood + parts.log_ratio

    bound = likelihood.iwae_bound_in_chunks(log_weights, noise_key, samples, chunk)
    parts = terms(elbo_key)
    elbo = likelihood.elbo(jnp.mean(parts.log_likelihood, axis=0), jnp.sum(parts.kl, axis=-1))
    return Likelihood(-bound, elbo)


FAMILY = Family(
    VaeConfig,
    init,
    step,
    sample,
    "Kingma and Welling 2014",
    decode=decode,
    encode=encode,
    evaluate=evaluate,
    importance_samples=5000,
)
