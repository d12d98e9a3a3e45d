"""The MLP GAN on MNIST, 28x28: 64-256-784 against 784-128-1.

    genjax train gan_mnist_paper

Hardware: 2 CPU cores, 5 to 15 minutes by their speed. Expected: energy_distance about 0.12 (1,000
samples against 1,000 training images in [-1, 1]); most digits readable, some broken strokes and
specks, as an MLP without convolutions gives.
"""

from genjax import DataOptions, Recipe
from genjax.models.gan import GanConfig

recipe = Recipe(
    family="gan",
    data="tfds:mnist",
    data_options=DataOptions(test_split="test"),
    model=GanConfig(),
    steps=100_000,
    save_interval=5000,
)
