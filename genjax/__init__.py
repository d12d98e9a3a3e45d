"""The classic generative models in JAX.

    import genjax
    result = genjax.train("gan_digits")
    images = genjax.sample(result.run, n=64, seed=0)

`genjax.models` holds the families, `genjax.objectives` their losses.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genjax.data.prepare import prepare
    from genjax.data.source import DataOptions
    from genjax.evaluation.classify import classify
    from genjax.evaluation.compare import compare
    from genjax.evaluation.encode import encode
    from genjax.evaluation.evaluate import evaluate
    from genjax.evaluation.fidelity import fidelity
    from genjax.evaluation.score import score
    from genjax.evaluation.tradeoff import tradeoff
    from genjax.exchange.export import export
    from genjax.exchange.imports import import_model
    from genjax.figures.latents import interpolate, manifold, manipulate, reconstruct, traverse
    from genjax.figures.sample import sample
    from genjax.figures.styles import mix, project
    from genjax.run.recipe import Recipe, load_recipe
    from genjax.run.trained import Result, Trained, load
    from genjax.trainer.loop import Diverged, resume, train
    from genjax.types import ImageSpec, UsageError

__all__ = [
    "DataOptions",
    "Diverged",
    "ImageSpec",
    "Recipe",
    "Result",
    "Trained",
    "UsageError",
    "classify",
    "compare",
    "encode",
    "evaluate",
    "export",
    "fidelity",
    "import_model",
    "interpolate",
    "load",
    "load_recipe",
    "manifold",
    "manipulate",
    "mix",
    "prepare",
    "project",
    "reconstruct",
    "resume",
    "sample",
    "score",
    "tradeoff",
    "train",
    "traverse",
]

# Where the public names are. They are imported when they are first used, not before, because that
# takes seconds, in which the command `genjax` has to answer Ctrl-C.
_MODULES = {
    "data.prepare": ["prepare"],
    "data.sources": ["DataOptions"],
    "evaluation.classify": ["classify"],
    "evaluation.compare": ["compare"],
    "evaluation.encode": ["encode"],
    "evaluation.evaluate": ["evaluate"],
    "evaluation.fidelity": ["fidelity"],
    "evaluation.score": ["score"],
    "evaluation.tradeoff": ["tradeoff"],
    "exchange.export": ["export"],
    "exchange.imports": ["import_model"],
    "figures.latents": ["interpolate", "manifold", "manipulate", "reconstruct", "traverse"],
    "figures.sample": ["sample"],
    "figures.styles": ["mix", "project"],
    "run.recipe": ["Recipe", "load_recipe"],
    "run.trained": ["Result", "Trained", "load"],
    "trainer.loop": ["Diverged", "resume", "train"],
    "types": ["ImageSpec", "UsageError"],
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # or a name that does not exist would have a type

    def __getattr__(name):
        from importlib.util import find_spec

        if name in _PLACES:
            return getattr(importlib.import_module(f"genjax.{_PLACES[name]}"), name)
        if find_spec(f"genjax.{name}"):
            return importlib.import_module(f"genjax.{name}")
        raise AttributeError(f"module 'genjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
