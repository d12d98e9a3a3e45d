"""DDPM on CIFAR-10: the paper's U-Net of 35.7 million parameters, schedule and rates.

    genjax train diffusion_cifar10

Hardware: a GPU or TPU; not measured. Expected: the paper reaches an FID of 3.17 after 800,000
steps, with 1,000 steps of ancestral sampling.

The samples at each save come from DDIM with 100 steps, which takes a tenth of the time; `genjax
evaluate RUN --sampler ancestral --sampling-steps 1000` measures as the paper does.
"""

from genjax import DataOptions, Recipe
from genjax.models.diffusion import DiffusionConfig
from genjax.nn.unet import UNetConfig

recipe = Recipe(
    family="diffusion",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=DiffusionConfig(
        variance="large", sampler="ddim", sampling_steps=100, network=UNetConfig(dropout=0.1)
    ),
    steps=800_000,
    mirror=True,
    batch_size=128,
    log_interval=100,
    save_interval=10_000,
    quality="latest",
)
