"""The classic generative models in JAX.

    import genjax
    result = genjax.train("gan_digits")
    images = genjax.sample(result.run, n=64, seed=0)

`genjax.models` holds the families, `genjax.objectives` their losses.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genjax import data, metrics, models, objectives, transforms
    from genjax.data.prepare import prepare
    from genjax.data.processes import ProcessLost
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
    from genjax.models import register
    from genjax.run.checkpoint import SaveError
    from genjax.run.recipe import Recipe, load_recipe
    from genjax.run.trained import Result, Trained, history, load
    from genjax.trainer.iterator import Record, Training
    from genjax.trainer.loop import Diverged, resume, train, training
    from genjax.trainer.signals import Stopped
    from genjax.types import Batch, Config, Family, ImageSpec, Likelihood, UsageError, checked

__all__ = [
    "Batch",
    "Config",
    "DataOptions",
    "Diverged",
    "Family",
    "ImageSpec",
    "Likelihood",
    "ProcessLost",
    "Recipe",
    "Record",
    "Result",
    "SaveError",
    "Stopped",
    "Trained",
    "Training",
    "UsageError",
    "checked",
    "classify",
    "compare",
    "data",
    "encode",
    "evaluate",
    "export",
    "fidelity",
    "history",
    "import_model",
    "interpolate",
    "load",
    "load_recipe",
    "manifold",
    "manipulate",
    "metrics",
    "mix",
    "models",
    "objectives",
    "prepare",
    "project",
    "reconstruct",
    "register",
    "resume",
    "sample",
    "score",
    "tradeoff",
    "train",
    "training",
    "transforms",
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
    "data.processes": ["ProcessLost"],
    "models": ["register"],
    "run.checkpoint": ["SaveError"],
    "run.recipe": ["Recipe", "load_recipe"],
    "run.trained": ["Result", "Trained", "history", "load"],
    "trainer.iterator": ["Record", "Training"],
    "trainer.loop": ["Diverged", "resume", "train", "training"],
    "trainer.signals": ["Stopped"],
    "types": ["Batch", "Config", "Family", "ImageSpec", "Likelihood", "UsageError", "checked"],
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


if TYPE_CHECKING:
    __version__: str
else:  # or a name that does not exist would have a type

    def _for_help(function):
        """Let `help` show a function's types without what the command line knows of them."""
        import inspect
        import typing

        if inspect.isfunction(function) and not hasattr(function, "__signature__"):
            hints, signature = typing.get_type_hints(function), inspect.signature(function)
            function.__signature__ = signature.replace(
                parameters=[
                    each.replace(annotation=hints.get(each.name, each.annotation))
                    for each in signature.parameters.values()
                ],
                return_annotation=hints.get("return", signature.return_annotation),
            )
        return function

    def __getattr__(name):
        from importlib.util import find_spec

        if name == "__version__":
            from importlib.metadata import version

            return version("genjax-models")
        if name in _PLACES:
            return _for_help(getattr(importlib.import_module(f"genjax.{_PLACES[name]}"), name))
        if find_spec(f"genjax.{name}"):
            return importlib.import_module(f"genjax.{name}")
        raise AttributeError(f"module 'genjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
