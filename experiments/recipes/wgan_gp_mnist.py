"""WGAN-GP on MNIST, 28x28 with a border of 2 pixels.

    genjax train wgan_gp_mnist

Hardware: 2 CPU cores, 15 to 25 minutes. Expected: a Frechet distance of 1.1 +- 0.2 by `genjax
evaluate` (floor 0.5), 1.8 of 2,000 samples at step 8,000; clean strokes of every weight and slant,
nine of ten digits readable at once.

The border lets DCGAN's networks halve three times, to 4x4 pixels. They have a quarter of the
paper's width, G takes a step for each of the critic, and rates begin thirty times as high as the
paper's and fall to 0. Those of the paper are in `wgan_gp_mnist_paper`.
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
