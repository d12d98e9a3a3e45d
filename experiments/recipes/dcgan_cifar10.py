"""DCGAN on CIFAR-10, 32x32.

    genjax train dcgan_cifar10

Hardware: a GPU; not measured to its end. On 2 CPU cores a step takes half a second; a smaller run:

    genjax train dcgan_cifar10 --generator.features 32 --discriminator.features 32 --steps 1500

Expected: the smaller run gives, after 10 minutes, an energy_distance of about 0.3 (1,000 samples
against 1,000 training images in [-1, 1], from JPEG files); the samples are skies over grounds with
blobs in the middle, and no recognizable objects. Any copy of the images will do, such as
`--data cifar10/train.zip`.
"""

from genjax import DataOptions, Recipe
from genjax.models.dcgan import DcganConfig

recipe = Recipe(
    family="dcgan",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=DcganConfig(ema_decay=0.999),
    steps=50_000,
    batch_size=64,
    log_interval=50,
    save_interval=500,
)
