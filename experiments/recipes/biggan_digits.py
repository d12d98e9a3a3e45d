"""BigGAN on the digits of scikit-learn, 16x16, class-conditional: 8 features, so 32 channels.

    genjax train biggan_digits

Hardware: 2 CPU cores, about 10 minutes (0.1 s a step). Expected: energy_distance below 0.02 (1,000
samples against 1,000 training images in [-1, 1]); a grid with a row for each class, in which all
digits are readable and of their row's class. `genjax evaluate RUN -n 2000` gives a Frechet distance
at its floor.
"""

from genjax import DataOptions, Recipe
from genjax.models.biggan import BigganConfig, PlayerConfig

PLAYER = PlayerConfig(features=8, attention_resolutions=(8,), learning_rate=2e-4, beta1=0.0)

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
    save_interval=1000,
)
