"""WGAN-GP on MNIST, 28x28 with a border of 2 pixels.

    genjax train wgan_gp_mnist

Hardware: 2 CPU cores, TODO minutes. Expected: TODO

DCGAN's networks at a quarter of their width, a step of G for each of the critic, and rates that
begin thirty times as high as the paper's and fall to 0. Its own are in `wgan_gp_mnist_paper`.
"""

from genjax import DataOptions, Recipe
from genjax.models.wgan import PlayerConfig, WganGpConfig

STEPS = 20_000
PLAYER = PlayerConfig(
    features=16,
    learning_rate=3e-3,
    beta1=0.0,
    beta2=0.9,
    schedule="linear",
    decay_steps=STEPS,
)

recipe = Recipe(
    family="wgan_gp",
    data="tfds:mnist",
    data_options=DataOptions(border=2, test_split="test"),
    model=WganGpConfig(n_critic=1, ema_decay=0.999, generator=PLAYER, critic=PLAYER),
    steps=STEPS,
    batch_size=64,
    log_interval=100,
    save_interval=2000,
)
