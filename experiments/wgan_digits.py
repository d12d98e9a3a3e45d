"""WGAN with weight clipping on the digits of scikit-learn: 1,797 real images, no download.

    genjax train wgan_digits

Hardware: 2 CPU cores, 5 minutes. Expected: TODO
"""

from genjax import DataOptions, Recipe
from genjax.models.wgan import RMSPropPlayer, WganConfig

PLAYER = RMSPropPlayer(features=32)

recipe = Recipe(
    family="wgan",
    data="digits",
    data_options=DataOptions(size=(16,)),
    model=WganConfig(generator=PLAYER, critic=PLAYER),
    steps=16_000,
    batch_size=64,
    log_every=100,
    save_every=2000,
)
