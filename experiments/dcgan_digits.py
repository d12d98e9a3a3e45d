"""DCGAN on the digits of scikit-learn: 1,797 real images, no download.

genjax train dcgan_digits
"""

from genjax import DataOptions, Recipe
from genjax.models.dcgan import DcganConfig, PlayerConfig

recipe = Recipe(
    family="dcgan",
    data="digits",
    data_options=DataOptions(size=(16,)),
    model=DcganConfig(
        ema_decay=0.999,
        generator=PlayerConfig(features=32),
        discriminator=PlayerConfig(features=32),
    ),
    steps=4_000,
    batch_size=64,
    log_every=50,
    save_every=500,
)
