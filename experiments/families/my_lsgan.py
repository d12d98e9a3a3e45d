"""LSGAN (Mao et al. 2017), a family of one's own with linen: genjax train my_lsgan.py"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import genjax
from genjax.steps.gan import create_gan_state, real_images
from genjax.steps.update import apply_gradients, create_player

WIDTH = 256


@genjax.checked
class LsganConfig(genjax.Config):
    latent_size: int = 64
    learning_rate: float = 2e-4
    """Step size of both players: an option of the command line, as every field is."""


class Mlp(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(WIDTH)(x.reshape(x.shape[0], -1)))
        return nn.Dense(math.prod(self.shape))(x).reshape(-1, *self.shape)


def networks(spec):  # G(params, z [B, Z]) and D(params, images [B, H, W, C])
    g, d = Mlp(spec.shape), Mlp(())
    return lambda p, z: jnp.tanh(g.apply({"params": p}, z)), lambda p, x: d.apply({"params": p}, x)


def init(config, key, spec):
    inputs = jnp.zeros((1, config.latent_size)), jnp.zeros((1, *spec.shape))
    parts = zip((Mlp(spec.shape), Mlp(())), jax.random.split(key), inputs, strict=True)
    optimizer = optax.adam(config.learning_rate, b1=0.5)
    players = [create_player(net.init(key, x), optimizer) for net, key, x in parts]
    return create_gan_state(*players, spec, has_ema=False)


def step(config, state, batch, key):
    real, optimizer = real_images(batch, state.spec), optax.adam(config.learning_rate, b1=0.5)
    z = jax.random.normal(key, (len(real), config.latent_size))
    generate, judge = networks(state.spec)

    def d_loss(params):
        fake = generate(state.generator.params, z)
        return jnp.mean((judge(params, real) - 1) ** 2 + judge(params, fake) ** 2) / 2

    def g_loss(params):
        return jnp.mean((judge(d.params, generate(params, z)) - 1) ** 2) / 2

    d_value, grads = jax.value_and_grad(d_loss)(state.discriminator.params)
    d = apply_gradients(state.discriminator, grads, optimizer)
    g_value, grads = jax.value_and_grad(g_loss)(state.generator.params)
    g = apply_gradients(state.generator, grads, optimizer)
    state = dataclasses.replace(state, step=state.step + 1, generator=g, discriminator=d)
    return state, {"d_loss": d_value, "g_loss": g_value}


def decode(config, state, latents, labels):
    return networks(state.spec)[0](state.sampling_variables["params"], latents)


def sample(config, state, key, labels):
    z = jax.random.normal(key, (labels.shape[0], config.latent_size))
    return decode(config, state, z, labels)


family = genjax.Family(LsganConfig, init, step, sample, "Mao et al. 2017", decode=decode)
genjax.register("my_lsgan", family)
recipe = genjax.Recipe("my_lsgan", LsganConfig(), steps=20_000, quality="energy_distance")
