"""StyleGAN2 on FFHQ at 1024x1024: the paper's configuration F, in bfloat16.

    genjax train stylegan2_ffhq1024 --data folder:ffhq

Hardware: 8 GPUs or TPU cores, of which each takes 4 images; not measured. `ffhq` is a folder of the
images, or a .zip. Expected: not measured here; the paper reports an FID of 2.84 after 25 million
images (its table 1).
"""

from genjax import DataOptions, Recipe
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config

recipe = Recipe(
    family="stylegan2",
    data="folder:ffhq",
    data_options=DataOptions(size=(1024,)),
    model=Stylegan2Config(
        ema_rampup=0.0,
        dtype="bfloat16",
        generator=PlayerConfig(architecture="skip", learning_rate=0.002),
        discriminator=PlayerConfig(learning_rate=0.002),
    ),
    steps=781_250,
    batch_size=32,
    mirror=True,
    log_interval=100,
    save_interval=2000,
)
