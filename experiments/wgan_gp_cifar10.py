"""WGAN-GP on CIFAR-10, 32x32, with the ResNets of the paper.

genjax train wgan_gp_cifar10
"""

from genjax import Recipe
from genjax.models.wgan import AdamPlayer, WganGpConfig

PLAYER = AdamPlayer(learning_rate=2e-4, beta1=0.0, beta2=0.9, features=128)

recipe = Recipe(
    family="wgan_gp",
    data="tfds:cifar10",
    model=WganGpConfig(network="resnet", ema_decay=0.999, generator=PLAYER, critic=PLAYER),
    steps=500_000,
    batch_size=64,
    log_every=50,
    save_every=5000,
)
