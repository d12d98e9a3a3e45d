"""WGAN-GP on the digits of scikit-learn: 1,797 real images, no download.

genjax train wgan_gp_digits
"""

from genjax import DataOptions, Recipe
from genjax.models.wgan import AdamPlayer, WganGpConfig

PLAYER = AdamPlayer(learning_rate=1e-4, beta1=0.0, beta2=0.9, features=32)

recipe = Recipe(
    family="wgan_gp",
    data="digits",
    data_options=DataOptions(size=(16,)),
    model=WganGpConfig(ema_decay=0.99, generator=PLAYER, critic=PLAYER),
    steps=10_000,
    batch_size=64,
    log_every=50,
    save_every=1000,
)
