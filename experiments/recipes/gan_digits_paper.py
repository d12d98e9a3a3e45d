"""The MLP GAN on the digits of scikit-learn: 1,797 real images, no download.

    genjax train gan_digits_paper

Hardware: 2 CPU cores, under a minute. Expected: energy_distance about 0.06 at its best, near step
12,000 (1,000 samples against 1,000 training images in [-1, 1]); two thirds of the digits readable,
of every class, strokes a little rough.

The 8x8 originals are enlarged to 16x16, where a person reads them more easily. The discriminator
could learn so few images by heart and win, so it learns at half the generator's rate. Pixels pick
the best checkpoint, because a classifier of the data would take half as long as the whole training.
"""

from genjax import DataOptions, Recipe
from genjax.models.gan import GanConfig, PlayerConfig

recipe = Recipe(
    family="gan",
    data="digits",
    data_options=DataOptions(size=(16,), split="train[:80%]", test_split="train[80%:]"),
    model=GanConfig(discriminator=PlayerConfig(hidden_sizes=(128,), learning_rate=1e-4)),
    steps=16_000,
    save_interval=2000,
    quality="energy_distance",
)
