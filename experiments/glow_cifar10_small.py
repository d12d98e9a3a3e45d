"""Glow on CIFAR-10 for a CPU: 3 levels of 8 steps, 64 channels.

genjax train glow_cifar10_small
"""

from genjax import DataOptions, Recipe
from genjax.models.glow import GlowConfig
from genjax.steps.optim import AdamConfig

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
        optimizer=AdamConfig(
            learning_rate=2e-3, beta1=0.9, warm_up_steps=300, decay_steps=STEPS, clip_norm=1.0
        ),
    ),
    steps=STEPS,
    batch_size=32,
    log_every=100,
    save_every=1000,
)
