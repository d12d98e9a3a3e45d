r"""Glow on CIFAR-10 for a CPU: 3 levels of 8 steps, 64 channels.

    genjax train glow_cifar10_small

Hardware: 2 CPU cores, 20 minutes (6 steps/s); not measured to its end. A shorter run, with any copy
of the images:

    genjax train glow_cifar10_small --data cifar10/train.zip --split 'train[:90%]' \
        --test-split 'train[90%:]' --steps 600 --optimizer.decay-steps 600 \
        --optimizer.warmup-steps 50 --ema-decay 0.99

Expected: the shorter run gives, after 2 minutes, 3.65 bits/dim on held-out images and falling, from
JPEG files, which are smoother than the originals; the samples are clouds of colour.
"""

from genjax import DataOptions, Recipe
from genjax.models.glow import GlowConfig
from genjax.steps.optim import OptimizerConfig

STEPS = 6_000

recipe = Recipe(
    family="glow",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=GlowConfig(
        levels=3,
        steps_per_level=8,
        hidden_features=64,
        ema_decay=0.999,
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            beta1=0.9,
            warmup_steps=300,
            schedule="linear",
            decay_steps=STEPS,
            clip_norm=1.0,
        ),
    ),
    steps=STEPS,
    batch_size=32,
    log_interval=100,
    save_interval=1000,
)
