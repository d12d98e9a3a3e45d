"""Glow on MNIST, in 32 gray levels, whose couplings and last prior see the class.

    genjax train glow_mnist_conditional
    genjax classify runs/glow_mnist_conditional

Hardware: 2 CPU cores, half an hour (55 minutes on one, beside other work). Expected: 0.650
bits/dim; most samples are the class that was asked for. By Bayes' rule 9,485 of the 10,000 test
images are classified rightly (NLL 0.25 nats, calibration error 0.029), and 9,905 by the classifier
that was trained for it.
"""

from genjax import DataOptions, Recipe
from genjax.models.glow import GlowConfig
from genjax.steps.optim import OptimizerConfig

STEPS = 6000

recipe = Recipe(
    family="glow",
    data="tfds:mnist",
    data_options=DataOptions(border=2, test_split="test"),
    model=GlowConfig(
        levels=3,
        steps_per_level=8,
        hidden_features=64,
        bits=5,
        conditional=True,
        ema_decay=0.999,
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            beta1=0.9,
            warmup_steps=500,
            schedule="linear",
            decay_steps=STEPS,
            clip_norm=1.0,
        ),
    ),
    steps=STEPS,
    batch_size=64,
    log_interval=100,
    save_interval=1000,
)
