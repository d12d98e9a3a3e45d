"""DCGAN on the digits of scikit-learn: 1,797 real images, no download.

    genjax train dcgan_digits_paper

Hardware: 2 CPU cores, 3 to 7 minutes. Expected: energy_distance about 0.36 (1,000 samples against
1,000 training images in [-1, 1]); most digits readable, on a background that is not quite black,
because D normalizes real and generated images separately and so hardly sees their contrast.
"""

from genjax import DataOptions, Recipe
from genjax.models.dcgan import DcganConfig, PlayerConfig

recipe = Recipe(
    family="dcgan",
    data="digits",
    data_options=DataOptions(size=(16,), split="train[:80%]", test_split="train[80%:]"),
    model=DcganConfig(
        ema_decay=0.999,
        generator=PlayerConfig(features=32),
        discriminator=PlayerConfig(features=32),
    ),
    steps=4_000,
    batch_size=64,
    log_interval=50,
    save_interval=500,
)
