"""The classic generative models in JAX.

    import genjax
    result = genjax.train("gan_digits")
    images = genjax.sample(result.run, n=64, seed=0)

`genjax.models` holds the families, `genjax.objectives` their losses.
"""

from genjax.data.prepare import prepare
from genjax.data.sources import DataOptions
from genjax.evaluation.compare import compare
from genjax.evaluation.evaluate import evaluate
from genjax.evaluation.tradeoff import tradeoff
from genjax.figures.latents import interpolate, manifold, manipulate, reconstruct, traverse
from genjax.figures.sample import sample
from genjax.figures.styles import mix, project
from genjax.run.recipe import Recipe, load_recipe
from genjax.training.loop import Diverged, Result, resume, train
from genjax.types import ImageSpec, UsageError

__all__ = [
    "DataOptions",
    "Diverged",
    "ImageSpec",
    "Recipe",
    "Result",
    "UsageError",
    "compare",
    "evaluate",
    "interpolate",
    "load_recipe",
    "manifold",
    "manipulate",
    "mix",
    "prepare",
    "project",
    "reconstruct",
    "resume",
    "sample",
    "tradeoff",
    "train",
    "traverse",
]
