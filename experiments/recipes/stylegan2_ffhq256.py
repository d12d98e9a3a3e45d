"""StyleGAN2 on FFHQ at 256x256, with the paper's smaller networks, bfloat16.

    genjax train stylegan2_ffhq256 --data folder:ffhq

Hardware: 8 GPUs or TPU cores, of which each takes 8 images; not measured. `ffhq` is a folder of the
images, or a .zip, of any size. Expected: not measured here; it trains on 25 million images.
"""

from genjax import DataOptions, Recipe
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config

recipe = Recipe(
    family="stylegan2",
    data="folder:ffhq",
    data_options=DataOptions(size=(256,)),
    model=Stylegan2Config(
        r1_gamma=1.0,
        minibatch_std_group_size=8,
        ema_images=20_000,
        ema_rampup=0.0,
        dtype="bfloat16",
        generator=PlayerConfig(architecture="skip", channel_base=16384),
        discriminator=PlayerConfig(channel_base=16384),
    ),
    steps=390_625,
    batch_size=64,
    mirror=True,
    log_interval=100,
    save_interval=2000,
)
