"""BigGAN on ImageNet, 128x128, as in the paper: 96 features, batches of 2,048, bfloat16.

    genjax train biggan_imagenet128 --data-dir DIR --run gs://BUCKET/runs/biggan

Hardware: a TPU pod slice of 128 cores or more, of which each takes 16 images; or fewer devices with
`--gradient-accumulation-steps 8`. tensorflow-datasets cannot download ImageNet by itself; its page
on ImageNet says which files to put where. Expected: not measured here; the paper reports an FID of
8.7 and an Inception Score of 98.8 without truncation after 150,000 steps of G, which correspond to
these 300,000 of D (its table 2).
"""

from genjax import DataOptions, Recipe
from genjax.models.biggan import BigganConfig, PlayerConfig

recipe = Recipe(
    family="biggan",
    data="tfds:imagenet2012",
    data_options=DataOptions(test_split="validation", size=(128,)),
    model=BigganConfig(
        ema_start=20_000,
        dtype="bfloat16",
        generator=PlayerConfig(features=96, learning_rate=5e-5, beta1=0.0),
        discriminator=PlayerConfig(features=96, learning_rate=2e-4, beta1=0.0),
    ),
    steps=300_000,
    batch_size=2048,
    log_interval=100,
    save_interval=2000,
)
