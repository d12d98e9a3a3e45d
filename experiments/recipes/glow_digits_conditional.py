"""Glow on the digits, in 16 gray levels, whose couplings and last prior see the class.

    genjax train glow_digits_conditional
    genjax classify runs/glow_digits_conditional

Hardware: 2 CPU cores, three minutes (35 beside much other work). Expected: 1.06 bits/dim on 360
held-out images (256 pixels; uniform noise is 4), round-trip error below 1e-6; most samples are the
class that was asked for. By Bayes' rule 355 of the 360 images are classified rightly (98.6%, NLL
0.10 nats, calibration error 0.012), and 358 by the classifier that was trained for it.
"""

from genjax import DataOptions, Recipe
from genjax.models.glow import GlowConfig
from genjax.steps.optim import OptimizerConfig

STEPS = 2000

recipe = Recipe(
    family="glow",
    data="digits",
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]", size=(16,)),
    model=GlowConfig(
        hidden_features=64,
        bits=4,
        conditional=True,
        ema_decay=0.999,
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            beta1=0.9,
            warmup_steps=100,
            schedule="linear",
            decay_steps=STEPS,
            clip_norm=1.0,
        ),
    ),
    steps=STEPS,
    batch_size=64,
    log_interval=100,
    save_interval=500,
)
