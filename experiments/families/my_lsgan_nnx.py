"""The LSGAN of my_lsgan.py with networks of flax NNX: genjax train my_lsgan_nnx.py"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import genjax
from genjax.steps.gan import create_gan_state, real_images
from genjax.steps.update import apply_gradients, create_player

WIDTH = 256


@genjax.checked
class LsganConfig(genjax.Config):
    latent_size: int = 64
    learning_rate: float = 2e-4
    """Step size of both players: an option of the command line, as every field is."""


class Mlp(nnx.Module):
    def __init__(self, inputs, shape, rngs):
        self.first = nnx.Linear(inputs, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, math.prod(shape), rngs=rngs)
        self.shape = shape

    def __call__(self, x):
        x = nnx.gelu(self.first(x.reshape(x.shape[0], -1)))
        return self.last(x).reshape(-1, *self.shape)


def modules(config, spec, key):
    rngs, pixels = nnx.Rngs(key), math.prod(spec.shape)
    return Mlp(config.latent_size, spec.shape, rngs), Mlp(pixels, (), rngs)


def networks(config, spec):
    """Return G(params, z [B, Z]) and D(params, images [B, H, W, C]).

    A module is a definition, made anew from shapes, and a state, whose arrays are the parameters.
    """
    shapes = nnx.eval_shape(lambda: modules(config, spec, jax.random.key(0)))
    (g, g_state), (d, d_state) = map(nnx.split, shapes)

    def apply(definition, state, params, x):
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(definition, state)(x)

    generate = functools.partial(apply, g, g_state)
    return lambda p, z: jnp.tanh(generate(p, z)), functools.partial(apply, d, d_state)


def init(config, key, spec):
    params = [nnx.to_pure_dict(nnx.state(each)) for each in modules(config, spec, key)]
    optimizer = optax.adam(config.learning_rate, b1=0.5)
    players = [create_player({"params": each}, optimizer) for each in params]
    return create_gan_state(*players, spec, has_ema=False)


def step(config, state, batch, key):
    real, optimizer = real_images(batch, state.spec), optax.adam(config.learning_rate, b1=0.5)
    z = jax.random.normal(key, (len(real), config.latent_size))
    generate, judge = networks(config, state.spec)

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
    return networks(config, state.spec)[0](state.sampling_variables["params"], latents)


def sample(config, state, key, labels):
    z = jax.random.normal(key, (labels.shape[0], config.latent_size))
    return decode(config, state, z, labels)


family = genjax.Family(LsganConfig, init, step, sample, "Mao et al. 2017", decode=decode)
genjax.register("my_lsgan_nnx", family)
recipe = genjax.Recipe("my_lsgan_nnx", LsganConfig(), steps=20_000, quality="energy_distance")
