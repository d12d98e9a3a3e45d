"""Tests of the policy of `genjax.nn.precision`, by each product in each program.

What a product belongs to is read from the lines of code that it was traced from.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import ImageSpec, Recipe
from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.figures import styles
from genjax.metrics import classifier
from genjax.metrics.energy import energy_distance
from genjax.metrics.inception import inception, params_shapes
from genjax.models import FAMILIES
from genjax.nn.conv import conv
from genjax.nn.precision import exact
from genjax.types import Batch
from tests.models.test_families import CONFIGS, SPEC, SPECS
from tests.programs import instructions
from tests.rounding import PRODUCTS, is_exact
from tests.states import drawn_state

# The layers. A product follows `--dtype` and `--precision` if one of these functions (or of any in
# this folder) is the innermost of ours, or of linen's, that it was traced in; others are exact.
LAYERS = (
    "linen/linear.py: Dense.__call__",
    "nn/attention.py: AttentionBlock.__call__",
    "nn/attention.py: SelfAttention.__call__",
    "nn/conv/",
    "nn/equalized.py: Dense.__call__",
    "nn/spectral.py: Dense.__call__",
)
# The backward pass of `transforms.reversible` has the lines of the call alone; there the names that
# linen gives to modules tell that a product is one of a coupling's network.
REVERSIBLE, NETWORK = "transforms.py: ", "/net/"
# Within these even layers are exact.
EXACT = ("metrics/", "nn/style.py: Mapping.__call__")
# Blurs have the type of the features, and are exact in it.
BLUR = "nn/resample.py: "
PACKAGES = tuple(f"{Path(str(module.__file__)).parent}/" for module in (genjax, flax))

KEY = jax.random.key(0)
# Families, and configs with more products than the small ones have. All are in bfloat16, because
# what is exact is float32 then too.
ADA = {
    "conditional": True,
    "augment_operations": ("blit", "geometric", "color", "filter", "noise", "cutout"),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in FAMILIES} | {
    "stylegan2": ("stylegan2", ADA),
    "stylegan2 without penalties": ("stylegan2", ADA | {"r1_gamma": 0, "path_length_weight": 0}),
    "glow": ("glow", {"dequantization": "variational", "remat": "blocks"}),
    "diffusion": ("diffusion", {"conditional": True}),
    "glow rebuilt": ("glow", {"permutation": "plain", "reversible": True, "conditional": True}),
}
FAST = ("gan", "vae")


def functions_of(stack: tuple[Any, ...]) -> list[str]:
    """Return what an instruction was traced in, as `file: function`, the innermost first.

    `linear.py` is left out, which traces functions of others.
    """
    found = []
    for eqn in reversed(stack):
        codes, _ = eqn.source_info.traceback.raw_frames()
        for code in codes:
            package = next((each for each in PACKAGES if code.co_filename.startswith(each)), None)
            if package:
                found.append(f"{code.co_filename.removeprefix(package)}: {code.co_qualname}")
    return [each for each in found if not each.startswith("linear.py: ")]


def products(program: Any, everything: bool = False) -> tuple[int, list[str]]:
    """Count the products that have to be exact, or all, and describe those of them that are not."""
    count, wrong = 0, []
    for *around, eqn in instructions(program):
        if eqn.primitive.name not in PRODUCTS:
            continue
        functions = functions_of((*around, eqn))
        names = "/".join(str(each.source_info.name_stack) for each in (*around, eqn))
        is_layer = functions[0].startswith(LAYERS) or (
            functions[0].startswith(REVERSIBLE) and NETWORK in names
        )
        if is_layer and not everything and not any(each.startswith(EXACT) for each in functions):
            continue
        count += 1
        types = [str(atom.aval.dtype) for atom in eqn.invars]
        precision = eqn.params["precision"]
        is_narrow = set(types) != {"float32"} and not functions[0].startswith(BLUR)
        if not is_exact(precision) or is_narrow:
            wrong.append(f"{functions[0]} in {functions[1:4]}: {precision} of {types}")
    return count, wrong


def programs(case: str) -> Iterator[tuple[str, Any]]:
    """Trace all that a family can do, in bfloat16."""
    name, changes = CASES[case]
    family, spec = FAMILIES[name], dataclasses.replace(SPECS.get(name, SPEC), channels=3)
    config: Any = dataclasses.replace(CONFIGS[name], dtype="bfloat16", **changes)  # type: ignore[call-arg]
    state = jax.eval_shape(lambda key: family.init(config, key, spec), KEY)
    labels = jnp.zeros(8, jnp.int32)
    batch = Batch(jnp.zeros((8, *spec.shape), jnp.uint8), labels)
    latents = jnp.zeros((8, getattr(config, "latent_size", np.prod(spec.shape))))
    calls: dict[str, tuple[Any, ...]] = {
        "step": (batch, KEY),
        "sample": (KEY, labels),
        "prepare": (KEY,),
        "evaluate": (batch, KEY),
        "encode": (batch, KEY),
        "decode": (latents, labels),
        "style": (latents, labels),
        "health": (batch,),
    }
    for call, args in calls.items():
        function = getattr(family, call)
        if function is not None:
            yield call, jax.make_jaxpr(functools.partial(function, config))(state, *args)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_all_products_but_those_of_layers_are_exact_in_a_family(case):
    found = [(call, *products(program)) for call, program in programs(case)]
    wrong = [f"{call}: {line}" for call, _, lines in found for line in lines]
    assert not wrong, "\n".join(wrong)
    count = {call: count for call, count, _ in found}
    assert count["step"] >= 2  # the norms of gradients, for example


@pytest.mark.slow
def test_what_goes_through_a_flow_and_back_is_exact():
    """Networks too: rounded, they would not do again what they have done; see `exact_flow`."""
    for call, program in programs("glow rebuilt"):
        if call in ("encode", "decode", "health", "sample"):
            count, wrong = products(program, everything=True)
            assert count >= 4 and not wrong, "\n".join(wrong)


class Stop(Exception):
    """The program that is wanted has been traced."""


def traced(monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[[], Any]) -> Any:
    """Return the program of the first compiled function called `name` in a call."""
    found: list[Any] = []
    jit = jax.jit

    def spy(function: Any, **options: Any) -> Any:
        def run(*args: Any) -> Any:
            found.append(jax.make_jaxpr(function)(*args))
            raise Stop

        is_wanted = getattr(getattr(function, "func", function), "__name__", "") == name
        return run if is_wanted else jit(function, **options)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(jax, "jit", spy)
        call()
    return found[0]


def _inception():
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params_shapes())
    inception(params)(np.zeros((2, 16, 16, 3), np.uint8))


DIGITS = ImageSpec(16, 16, 1, 10)


def _classify():
    data = classifier.to_bytes(classifier.initial_variables(DIGITS, 0))
    classifier.Extractor(DIGITS, data)(np.zeros((2, *DIGITS.shape), np.uint8))


def _train_classifier():
    options = DataOptions()
    classifier.train_classifier(open_source("digits", options), options, steps=1)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("<lambda>", _inception, id="inception"),
        pytest.param("<lambda>", _classify, id="classifier"),
        pytest.param("run", _train_classifier, id="training of the classifier"),
    ],
)
def test_the_feature_nets_are_exact(name, call, monkeypatch):
    count, wrong = products(traced(monkeypatch, name, call), everything=True)
    assert count >= 5 and not wrong, "\n".join(wrong)


def test_the_energy_distance_is_exact():
    count, wrong = products(jax.make_jaxpr(energy_distance)(jnp.zeros((3, 4)), jnp.zeros((5, 4))))
    assert count == 3 and not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_perceptual_path_lengths_are_those_of_an_exact_network(monkeypatch):
    """Styles that are 1e-4 apart are the same in bfloat16."""
    config = dataclasses.replace(CONFIGS["stylegan2"], dtype="bfloat16")
    recipe = Recipe(family="stylegan2", model=config)
    state = drawn_state(FAMILIES["stylegan2"].init, config, SPECS["stylegan2"])

    def measure():
        net = lambda images: (images.reshape(len(images), -1), None)  # noqa: E731
        styles.perceptual_path_length(recipe, state, net, 4, KEY)

    for name in ("style", "synthesize"):
        styles.style_functions.cache_clear()
        program = traced(monkeypatch, name, measure)
        count, wrong = products(program, everything=True)
        assert count >= 2 and not wrong, "\n".join(wrong)
    styles.style_functions.cache_clear()


def test_the_gradients_of_an_exact_convolution_are_exact():
    """They are traced after the context has ended, by rules for derivatives."""

    def loss(x, w):
        return jnp.sum(jnp.sin(exact()(conv)(x, w, padding=1)))

    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(
        jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    )
    count, wrong = products(program, everything=True)
    assert count >= 6 and not wrong, "\n".join(wrong)


def test_the_option_is_of_all_products_of_networks():
    """Gradients too, which are traced after the layers: none is left at the default."""
    recipe = Recipe(family="dcgan", model=CONFIGS["dcgan"], precision="highest")
    family = recipe.functions
    state = jax.eval_shape(lambda key: family.init(recipe.model, key, SPEC), KEY)
    batch = Batch(jnp.zeros((8, *SPEC.shape), jnp.uint8), jnp.zeros(8, jnp.int32))
    program = jax.make_jaxpr(functools.partial(family.step, recipe.model))(state, batch, KEY)
    count, wrong = products(program, everything=True)
    assert count > 20 and not wrong, "\n".join(wrong)
