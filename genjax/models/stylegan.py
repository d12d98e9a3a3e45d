"""StyleGAN: Karras, Laine and Aila 2019 (arXiv:1812.04948), grown as in arXiv:1710.10196.

As in StyleGAN2 a mapping network turns noise z into styles w, one for each layer. But here a style
sets the mean and the standard deviation of each feature (AdaIN), and the networks grow:

    z -> 8 x 512 -> w
    constant 4x4 -> noise, AdaIN -> conv, noise, AdaIN -> to RGB
      -> up, conv, noise, AdaIN -> conv, noise, AdaIN at 8x8 -> to RGB ...

Training begins with images of 4x4 pixels, and each stage doubles their size: first the new layers
of both players fade in beside the enlarged image of the old ones, then all layers train on. Every
stage is a branch of one compiled step, chosen by the state's `step`; the parameters of later stages
do not change until then. Small images thus shape the coarse layers, which is why the styles of
different layers control different scales.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field

from genjax.nn import resample
from genjax.nn.equalized import Conv, Dense, bias_act, leaky_relu, minibatch_std
from genjax.nn.remat import end_of_block
from genjax.nn.residual import downsample, upsample
from genjax.nn.resolution import base_resolution
from genjax.nn.style import (
    Mapping,
    adain,
    broadcast,
    draw_layer_noise,
    draw_styles,
    num_style_layers,
    style_latents,
)
from genjax.objectives import adversarial
from genjax.objectives.penalties import r1_penalty
from genjax.steps.diagnostics import discriminator_metrics
from genjax.steps.gan import create_gan_state, real_images
from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.steps.state import GanState
from genjax.steps.update import (
    GradientConfig,
    create_player,
    update_ema,
    update_player,
)
from genjax.types import Batch, Family, ImageSpec, Metrics, checked

# StyleGAN blurs with the smaller binomial filter after it has enlarged, and before it halves.
BLUR = (0.25, 0.5, 0.25)
FIXED_NOISE_SEED = 0


@checked
class PlayerConfig(OptimizerConfig):
    """The network and the optimizer of one player."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    """Step size: the largest, if the schedule changes it."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the mean of gradients; RMSProp has no such mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the mean of squared gradients."""
    channel_base: Annotated[int, Field(gt=0)] = 16384
    """A block at a size of 4 * 2^k pixels has this number divided by its size as features."""
    channel_max: Annotated[int, Field(gt=0)] = 512
    """Most features of a block."""

    def features(self, level: int) -> int:
        """Return the features of the block at `level`, 0 at the smallest size."""
        return max(1, min(self.channel_base // (4 << level), self.channel_max))


@checked
class StyleganConfig(GradientConfig):
    """The config of StyleGAN."""

    latent_size: Annotated[int, Field(gt=0)] = 512
    """Size of the noise vector z."""
    style_size: Annotated[int, Field(gt=0)] = 512
    """Size of a style w."""
    mapping_layers: Annotated[int, Field(gt=0, le=64)] = 8
    """Layers of the mapping network."""
    style_mixing_prob: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability that an image is generated with two styles in training."""
    fade_steps: Annotated[int, Field(ge=0)] = 20_000
    """Steps over which the layers of a stage fade in."""
    stable_steps: Annotated[int, Field(gt=0)] = 20_000
    """Steps of a stage after its fade; the last stage goes on to the end."""
    r1_gamma: Annotated[float, Field(ge=0)] = 10.0
    """Weight of R1; 0 for none."""
    minibatch_std_group_size: Annotated[int, Field(ge=0)] = 4
    """Images in each group whose standard deviation D sees; 0 for none."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of G that is sampled from; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the convolutions; the rest is float32."""
    generator: PlayerConfig = PlayerConfig()
    """The generator."""
    discriminator: PlayerConfig = PlayerConfig()
    """The discriminator."""


class Epilogue(nn.Module):
    """The operations after a convolution: noise, bias, leaky ReLU, AdaIN (figure 1b).

    x [B, H, W, C], the layer's style w [B, W] and its noise [B, H, W, 1] -> [B, H, W, C].
    """

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: jax.Array) -> jax.Array:
        features = x.shape[-1]
        strength = self.param("noise_strength", nn.initializers.zeros, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        x = x + (noise * strength.reshape(1, 1, 1, -1)).astype(x.dtype)
        x = bias_act(x, bias, gain=1.0)
        scale, shift = jnp.split(Dense(2 * features, name="style")(w), 2, axis=1)
        return adain(x, 1 + scale, shift)


class Synthesis(nn.Module):
    """The synthesis network: styles [B, L, W], noise of each layer [B, H, W, 1] -> images.

    The images are float32 [B, H, W, C], about in [-1, 1], of the stage's size. `fade`, [] from 0 to
    1, is the weight of the stage's own layers against the enlarged image of the stage before.
    """

    config: StyleganConfig
    spec: ImageSpec

    def setup(self) -> None:
        halvings, (height, width) = base_resolution(self.spec)
        player, dtype = self.config.generator, self.config.dtype
        levels = range(halvings + 1)
        shape = (height, width, player.features(0))
        # The paper starts from ones, of which AdaIN would leave nothing but rounding errors.
        self.const = self.param("const", nn.initializers.normal(1.0), shape)
        plain = functools.partial(Conv, activation=None, use_bias=False, dtype=dtype)
        self.conv0 = {f"{i}": plain(player.features(i), 3) for i in levels[1:]}
        self.conv1 = {f"{i}": plain(player.features(i), 3) for i in levels}
        self.epilogue0 = {f"{i}": Epilogue(dtype) for i in levels}
        self.epilogue1 = {f"{i}": Epilogue(dtype) for i in levels}
        self.to_rgb = {f"{i}": Conv(self.spec.channels, 1, activation=None) for i in levels}

    def __call__(
        self, ws: jax.Array, noise: list[jax.Array], stage: int, fade: jax.Array
    ) -> jax.Array:
        x = jnp.broadcast_to(self.const, (ws.shape[0], *self.const.shape)).astype(self.config.dtype)
        before = x
        for level in range(stage + 1):
            before = x
            if level:
                x = self.conv0[f"{level}"](blur(upsample(x)))
            x = self.epilogue0[f"{level}"](x, ws[:, 2 * level], noise[2 * level])
            x = self.conv1[f"{level}"](x)
            x = self.epilogue1[f"{level}"](x, ws[:, 2 * level + 1], noise[2 * level + 1])
            x = end_of_block(x)
        image = self.to_rgb[f"{stage}"](x.astype(jnp.float32))
        if not stage:
            return image
        old = upsample(self.to_rgb[f"{stage - 1}"](before.astype(jnp.float32)))
        return old + fade * (image - old)

    def all_stages(self, ws: jax.Array, noise: list[jax.Array]) -> jax.Array:
        """Initialize all layers by running each stage; return the last images [B, H, W, C]."""
        images = [self(ws, noise, stage, jnp.ones(())) for stage in range(len(self.conv1))]
        return images[-1]


def blur(x: jax.Array) -> jax.Array:
    """Blur x, [B, H, W, C], by the binomial filter [1, 2, 1]; the size stays."""
    return resample.upfirdn(x, BLUR, padding=(1, 1, 1, 1))


class Generator(nn.Module):
    """The generator: z [B, Z] and the noise of each layer [B, H, W, 1] -> images [B, H, W, C].

    The mapping and the synthesis network are methods, too.
    """

    config: StyleganConfig
    spec: ImageSpec

    def setup(self) -> None:
        self.mapping = Mapping(self.config.style_size, self.config.mapping_layers)
        self.synthesis = Synthesis(self.config, self.spec)

    def __call__(self, z: jax.Array, noise: list[jax.Array]) -> jax.Array:
        ws = broadcast(self.mapping(z, None, False), self.spec)
        return self.synthesis.all_stages(ws, noise)

    def style(self, z: jax.Array, labels: None, train: bool) -> jax.Array:
        """Map noise [B, Z] to styles [B, W]; the model has no labels."""
        return self.mapping(z, labels, train)

    def synthesize(
        self, ws: jax.Array, noise: list[jax.Array], stage: int, fade: jax.Array
    ) -> jax.Array:
        """Map styles [B, L, W] to images of a stage; see `Synthesis`."""
        return self.synthesis(ws, noise, stage, fade)


class Discriminator(nn.Module):
    """The discriminator: images [B, H, W, C] of a stage's size, in [-1, 1] -> logits [B]."""

    config: StyleganConfig
    spec: ImageSpec

    def setup(self) -> None:
        halvings, _ = base_resolution(self.spec)
        player, dtype = self.config.discriminator, self.config.dtype
        levels = range(halvings + 1)
        conv = functools.partial(Conv, dtype=dtype)
        self.from_rgb = {f"{i}": conv(player.features(i), 1) for i in levels}
        self.conv0 = {f"{i}": conv(player.features(i), 3) for i in levels}
        self.conv1 = {f"{i}": conv(player.features(i - 1), 3) for i in levels[1:]}
        self.dense = Dense(player.features(0), leaky_relu)
        self.output = Dense(1)

    def __call__(self, images: jax.Array, stage: int, fade: jax.Array) -> jax.Array:
        x = self.from_rgb[f"{stage}"](images)
        for level in range(stage, 0, -1):
            x = self.conv1[f"{level}"](blur(self.conv0[f"{level}"](x)))
            x = end_of_block(downsample(x))
            if level == stage:
                old = self.from_rgb[f"{stage - 1}"](downsample(images))
                x = old + fade.astype(x.dtype) * (x - old)
        x = x.astype(jnp.float32)
        if self.config.minibatch_std_group_size:
            x = minibatch_std(x, self.config.minibatch_std_group_size)
        x = self.dense(self.conv0["0"](x).astype(jnp.float32).reshape(x.shape[0], -1))
        return self.output(x)[:, 0]

    def all_stages(self, images: list[jax.Array]) -> jax.Array:
        """Initialize all layers by running each stage on its images, a list of [B, H, W, C].

        Returns the last stage's logits [B].
        """
        logits = [self(each, stage, jnp.ones(())) for stage, each in enumerate(images)]
        return logits[-1]


def networks(config: StyleganConfig, spec: ImageSpec) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator that `config` describes."""
    return Generator(config, spec), Discriminator(config, spec)


def draw_noise(key: jax.Array, spec: ImageSpec, n: int) -> list[jax.Array]:
    """Draw noise for each layer and `n` images, [n, H, W, 1], from the smallest size up."""
    return draw_layer_noise(key, spec, n, [i // 2 for i in range(num_style_layers(spec))])


def init(config: StyleganConfig, key: jax.Array, spec: ImageSpec) -> GanState:
    """Return the state at step 0, whose standard normal weights depend on `key` alone.

    Raises:
        UsageError: The size cannot be halved to 4 to 7 pixels.
    """
    generator, discriminator = networks(config, spec)
    halvings, (height, width) = base_resolution(spec)
    generator_key, discriminator_key = jax.random.split(key)
    z, noise = jnp.zeros((1, config.latent_size)), draw_noise(key, spec, 1)
    images = [
        jnp.zeros((1, height << level, width << level, spec.channels))
        for level in range(halvings + 1)
    ]
    return create_gan_state(
        create_player(
            generator.init(generator_key, z, noise), create_optimizer(config.generator, 0)
        ),
        create_player(
            discriminator.init(discriminator_key, images, method="all_stages"),
            create_optimizer(config.discriminator, 0),
        ),
        spec,
        config.ema_decay > 0,
    )


def stage_of(
    config: StyleganConfig, spec: ImageSpec, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the stage, int32 [], and its fade, [], which rises from just above 0 to 1."""
    halvings, _ = base_resolution(spec)
    since = step - config.stable_steps  # the first stage has nothing to fade in
    length = config.fade_steps + config.stable_steps
    stage = jnp.clip(since // length + 1, 0, halvings)
    begun = since - (stage - 1) * length
    fade = jnp.minimum((begun + 1) / max(1, config.fade_steps), 1.0)
    return stage, jnp.where(stage == 0, 1.0, fade)


def mixed_styles(
    config: StyleganConfig, state: GanState, variables: Any, key: jax.Array, n: int, stage: int
) -> tuple[jax.Array, Any]:
    """Draw styles [n, L, W], some of them mixed (section 3.1), and return G's new collections.

    The layer from which on a mixed image has the second style is one that the stage has.
    """
    generator, _ = networks(config, state.spec)
    spec, shape, share = state.spec, (n, config.latent_size), config.style_mixing_prob

    def style(z: jax.Array) -> tuple[jax.Array, Any]:
        return generator.apply(variables, z, None, True, method="style", mutable=["batch_stats"])

    return draw_styles(style, key, shape, spec, share, layers=2 * (stage + 1))


def stage_step(
    config: StyleganConfig,
    state: GanState,
    real: jax.Array,
    key: jax.Array,
    stage: int,
    fade: jax.Array,
) -> tuple[GanState, Metrics]:
    """Take a step of each player at one stage.

    Args:
        config: The model.
        state: The state before the step.
        real: Real images of the full size, float32 [B, H, W, C] in [-1, 1].
        key: The PRNG key of all draws.
        stage: The stage, 0 at the smallest images.
        fade: The weight of the stage's own layers, [] from 0 to 1.

    Returns:
        The state with both players updated, and the metrics `d_loss`, `g_loss`, `d_grad_norm`,
        `g_grad_norm`, `r1_penalty` (without its weight), and those of `discriminator_metrics`.
    """
    halvings, _ = base_resolution(state.spec)
    for _ in range(halvings - stage):
        real = downsample(real)
    if stage:
        # The real images fade in too, so that they are no finer than what G can draw.
        coarse = upsample(downsample(real))
        real = coarse + fade * (real - coarse)
    generator, discriminator = networks(config, state.spec)
    d_keys, g_keys = (jax.random.split(each) for each in jax.random.split(key))

    def discriminate(params: Any, images: jax.Array) -> jax.Array:
        logits: Any = discriminator.apply({"params": params}, images, stage, fade)
        return logits

    def draw(params: Any, carried: Any, keys: jax.Array, n: int) -> tuple[jax.Array, Any]:
        variables = {"params": params, **carried}
        ws, carried = mixed_styles(config, state, variables, keys[0], n, stage)
        noise = draw_noise(keys[1], state.spec, n)
        images: Any = generator.apply(
            {"params": params}, *(ws, noise, stage, fade), method="synthesize"
        )
        return images, carried

    player, opponent = state.generator, state.discriminator
    fake, _ = draw(player.params, player.collections, d_keys, real.shape[0])

    def d_loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, fake = part
        real_logits, fake_logits = discriminate(params, real), discriminate(params, fake)
        loss = jnp.mean(adversarial.minimax_discriminator_loss(real_logits, fake_logits))
        metrics = {"d_loss": loss, **discriminator_metrics(real_logits, fake_logits, real, fake)}
        if config.r1_gamma:
            metrics["r1_penalty"] = jnp.mean(
                r1_penalty(lambda images: discriminate(params, images), real)
            )
            loss += config.r1_gamma * metrics["r1_penalty"]
        return loss, (carried, metrics)

    optimizer = create_optimizer(config.discriminator, state.step)
    opponent, d_metrics = update_player(
        d_loss_fn, opponent, (real, fake), optimizer, config, "d_grad_norm"
    )

    def g_loss_fn(params: Any, carried: Any, rows: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        images, carried = draw(params, carried, g_keys, rows.shape[0])
        logits = discriminate(opponent.params, images)
        loss = jnp.mean(adversarial.non_saturating_generator_loss(logits))
        return loss, (carried, {"g_loss": loss})

    rows = jnp.arange(real.shape[0])
    optimizer = create_optimizer(config.generator, state.step)
    player, g_metrics = update_player(g_loss_fn, player, rows, optimizer, config, "g_grad_norm")
    state = dataclasses.replace(state, generator=player, discriminator=opponent)
    return state, {**d_metrics, **g_metrics}


def step(
    config: StyleganConfig, state: GanState, batch: Batch, key: jax.Array
) -> tuple[GanState, Metrics]:
    """Take a step of each player on uint8 images [B, H, W, C], at the stage of `state.step`."""
    real = real_images(batch, state.spec)
    halvings, _ = base_resolution(state.spec)
    stage, fade = stage_of(config, state.spec, state.step)
    branches = [
        lambda state, level=level: stage_step(config, state, real, key, level, fade)
        for level in range(halvings + 1)
    ]
    state, metrics = jax.lax.switch(stage, branches, state)
    metrics |= {"stage": stage.astype(jnp.float32), "fade": fade}
    ema = update_ema(state.ema, state.generator.variables, config.ema_decay, state.step)
    return dataclasses.replace(state, step=state.step + 1, ema=ema), metrics


def style(
    config: StyleganConfig,
    state: GanState,
    latents: jax.Array,
    labels: jax.Array,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
) -> jax.Array:
    """Map latents [n, latent_size] to styles [n, L, style_size], as `truncate` moves them.

    The model is not conditional: it ignores the labels.
    """
    del labels
    generator, _ = networks(config, state.spec)
    return style_latents(
        generator, state.sampling_variables, latents, None, truncation, truncation_cutoff
    )


def synthesize(config: StyleganConfig, state: GanState, styles: jax.Array) -> jax.Array:
    """Map styles [n, L, W] to images, float32 [n, H, W, C] in [-1, 1], with fixed noise."""
    noise = draw_noise(jax.random.key(FIXED_NOISE_SEED), state.spec, 1)
    return _show(config, state, styles, noise)


def _show(
    config: StyleganConfig, state: GanState, styles: jax.Array, noise: list[jax.Array]
) -> jax.Array:
    """Draw images at the state's current stage, enlarged to the full size."""
    generator, _ = networks(config, state.spec)
    halvings, _ = base_resolution(state.spec)
    params = state.sampling_variables["params"]
    stage, fade = stage_of(config, state.spec, state.step)

    def show(level: int) -> jax.Array:
        image: Any = generator.apply(
            {"params": params}, *(styles, noise, level, fade), method="synthesize"
        )
        for _ in range(halvings - level):
            image = upsample(image)
        return image

    branches = [lambda level=level: show(level) for level in range(halvings + 1)]
    images: jax.Array = jax.lax.switch(stage, branches)
    return jnp.clip(images, -1, 1)


def decode(
    config: StyleganConfig, state: GanState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Map latents [n, latent_size] to images, float32 [n, H, W, C] in [-1, 1], with fixed noise."""
    return synthesize(config, state, style(config, state, latents, labels))


def sample(
    config: StyleganConfig,
    state: GanState,
    key: jax.Array,
    labels: jax.Array,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
) -> jax.Array:
    """Draw an image for each label, [n]: float32 [n, H, W, C] in [-1, 1]; see `style`."""
    z_key, noise_key = jax.random.split(key)
    z = jax.random.normal(z_key, (labels.shape[0], config.latent_size))
    styles = style(config, state, z, labels, truncation, truncation_cutoff)
    return _show(config, state, styles, draw_noise(noise_key, state.spec, labels.shape[0]))


FAMILY = Family(
    StyleganConfig,
    init,
    step,
    sample,
    "Karras et al. 2019",
    decode=decode,
    style=style,
    synthesize=synthesize,
)
