"""WGAN-GP on MNIST, 28x28, with DCGAN's networks at half their width.

genjax train wgan_gp_mnist
"""

from genjax import Recipe
from genjax.models.wgan import AdamPlayer, WganGpConfig

PLAYER = AdamPlayer(learning_rate=1e-4, beta1=0.0, beta2=0.9, features=32)

recipe = Recipe(
    family="wgan_gp",
    data="tfds:mnist",
    model=WganGpConfig(ema_decay=0.99, generator=PLAYER, critic=PLAYER),
    steps=20_000,
    batch_size=64,
    log_every=50,
    save_every=1000,
)
