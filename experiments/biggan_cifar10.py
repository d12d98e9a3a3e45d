"""BigGAN on CIFAR-10, 32x32, class-conditional: 64 features, the single-GPU recipe of its authors.

    genjax train biggan_cifar10

Hardware: a GPU. Expected:
"""

from genjax import DataOptions, Recipe
from genjax.models.biggan import BigganConfig, PlayerConfig

PLAYER = PlayerConfig(features=64, attention=(), learning_rate=2e-4, beta1=0.0)

recipe = Recipe(
    family="biggan",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=BigganConfig(
        latent_size=128,
        hierarchical=False,
        shared_size=0,
        discriminator_steps=4,
        orthogonal_weight=0.0,
        ema_start=1000,
        generator=PLAYER,
        discriminator=PLAYER,
    ),
    steps=500_000,
    batch_size=50,
    log_every=50,
    save_every=5000,
)
