"""StyleGAN2 on FFHQ at 1024x1024: the paper's configuration F, in bfloat16.

    genjax train stylegan2_ffhq1024 --data folder:ffhq

Hardware: 8 GPUs or TPU cores, of which each takes 4 images; not measured. `ffhq` is a folder of the
images, or a .zip. Expected: not measured here; in the paper, after 25 million images, an FID of
2.84 (its table 1).
"""

from genjax import DataOptions, Recipe
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config

recipe = Recipe(
    family="stylegan2",
    data="folder:ffhq",
    data_options=DataOptions(size=(1024,)),
    model=Stylegan2Config(
        ema_ramp_up=0.0,
        dtype="bfloat16",
        generator=PlayerConfig(architecture="skip", learning_rate=0.002),
        discriminator=PlayerConfig(learning_rate=0.002),
    ),
    steps=781_250,
    batch_size=32,
    log_every=100,
    save_every=2000,
)
