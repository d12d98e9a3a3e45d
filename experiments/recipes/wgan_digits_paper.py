"""WGAN with weight clipping on the digits of scikit-learn: 1,797 real images, no download.

    genjax train wgan_digits_paper

Hardware: 2 CPU cores, 5 to 10 minutes; 16,000 steps of the critic are 3,200 of the generator.
Expected: energy_distance about 0.065 (1,000 samples against 1,000 training images in [-1, 1]),
frechet_distance 27; a Frechet distance of 28.7 +- 2.6 by `genjax evaluate` (floor 3.7);
about half of the digits readable, the rest blurred.
"""

import dataclasses

from genjax import DataOptions, Recipe
from genjax.models.wgan import WGAN_PLAYER, WganConfig

PLAYER = dataclasses.replace(WGAN_PLAYER, features=32)

recipe = Recipe(
    family="wgan",
    data="digits",
    data_options=DataOptions(size=(16,), split="train[:80%]", test_split="train[80%:]"),
    model=WganConfig(generator=PLAYER, critic=PLAYER),
    steps=16_000,
    batch_size=64,
    log_interval=100,
    save_interval=2000,
)
