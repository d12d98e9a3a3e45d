"""BigGAN on the digits of scikit-learn, 16x16, class-conditional: 16 features.

    genjax train biggan_digits

Hardware: 2 CPU cores. Expected:
"""

from genjax import DataOptions, Recipe
from genjax.models.biggan import BigganConfig, PlayerConfig

PLAYER = PlayerConfig(features=8, attention=(8,), learning_rate=2e-4, beta1=0.0)

recipe = Recipe(
    family="biggan",
    data="digits",
    data_options=DataOptions(size=(16,), split="train[:80%]", test_split="train[80%:]"),
    model=BigganConfig(
        latent_size=48,
        shared_size=32,
        ema_decay=0.999,
        generator=PLAYER,
        discriminator=PLAYER,
    ),
    steps=6000,
    batch_size=64,
    save_every=1000,
)
