r"""StyleGAN2 with adaptive augmentation on CIFAR-10, as in the paper on it: 512 features, bfloat16.

    genjax train stylegan2_cifar10

Hardware: a GPU; not measured. A smaller run for 2 CPU cores:

    genjax train stylegan2_cifar10 --data cifar10/train.zip --split 'train[:90%]' \
        --test-split 'train[90%:]' --generator.channel-base 1024 --generator.channel-max 64 \
        --discriminator.channel-base 1024 --discriminator.channel-max 64 --dtype float32 \
        --latent-size 128 --style-size 128 --batch-size 32 --minibatch-std-group-size 4

Expected: not measured here; the paper reports an FID of 2.92 after 100 million images, the number
in these 1,562,500 steps, and of 2.42 with `--conditional` (its figure 11).
"""

from genjax import DataOptions, Recipe
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config

recipe = Recipe(
    family="stylegan2",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=Stylegan2Config(
        style_mixing_prob=0.0,
        path_length_weight=0.0,
        r1_gamma=0.01,
        minibatch_std_group_size=32,
        ema_images=500_000,
        augment="ada",
        dtype="bfloat16",
        generator=PlayerConfig(architecture="skip", mapping_layers=2),
        discriminator=PlayerConfig(architecture="original", mapping_layers=2),
    ),
    steps=1_562_500,
    batch_size=64,
    save_interval=5000,
)
