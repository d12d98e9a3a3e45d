"""The time of every function of `genjax.objectives`, for `genjax bench losses`."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm
from tyro.conf import Positional

from genjax.bench.results import Column, Results, Row, duration
from genjax.bench.timing import (
    Dtype,
    Limits,
    alternating_times,
    machine,
    measure_limits,
    sampler,
    without_cache,
)
from genjax.objectives import adversarial, likelihood, penalties
from genjax.planning.cost import flops, traffic
from genjax.types import UsageError

# Shapes of the arguments: 32x32 RGB images and usual numbers of latents.
IMAGE = (32, 32, 3)
LATENTS, IMPORTANCE_SAMPLES, CHUNK = 128, 64, 16
LAYERS, STYLE = 8, 64
HIDDEN = 64
KERNEL = (3, 3, 128, 128)
LEVELS = 8


class Case(NamedTuple):
    """A function and its arguments; its gradient is that of the mean of its values."""

    function: Callable[..., jax.Array]
    arguments: tuple[jax.Array, ...]

    def call(self) -> Any:
        """Call the function eagerly, operation by operation."""
        return self.function(*self.arguments)


class _Draws:
    """A source of random arrays."""

    def __init__(self, batch: int, dtype: str):
        self.batch, self._dtype = batch, dtype
        self._rng = np.random.default_rng(0)

    def normal(self, *shape: int) -> jax.Array:
        """Draw an array from the standard normal distribution."""
        return jnp.asarray(self._rng.normal(size=shape), self._dtype)

    def uniform(self, *shape: int) -> jax.Array:
        """Draw an array uniformly from [0, 1)."""
        return jnp.asarray(self._rng.uniform(size=shape), self._dtype)

    def pair(self) -> tuple[jax.Array, jax.Array]:
        """Draw two numbers for each example, [B] each."""
        return self.normal(self.batch), self.normal(self.batch)

    def images(self) -> jax.Array:
        """Draw a batch of images, [B, H, W, C]."""
        return self.normal(self.batch, *IMAGE)

    def weights(self, inputs: int, outputs: int) -> jax.Array:
        """Draw the weights of a dense layer, [inputs, outputs]."""
        return self.normal(inputs, outputs) / inputs**0.5


def _critic(weights: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return a critic with one hidden layer, from images [B, H, W, C] to values [B]."""
    return lambda x: jnp.sum(jnp.tanh(x.reshape(len(x), -1) @ weights), axis=1)


def _penalty(penalty: Callable[..., jax.Array]) -> Callable[[_Draws], Case]:
    """Return a case of a penalty on a small critic, as a function of its weights and the points."""

    def make(draws: _Draws) -> Case:
        weights = draws.weights(int(np.prod(IMAGE)), HIDDEN)
        return Case(
            lambda weights, points: penalty(_critic(weights), points), (weights, draws.images())
        )

    return make


def _path_lengths(draws: _Draws) -> Case:
    def function(weights: jax.Array, styles: jax.Array, noise: jax.Array) -> jax.Array:
        def generator(styles: jax.Array) -> jax.Array:
            return jnp.tanh(styles.reshape(len(styles), -1) @ weights).reshape(noise.shape)

        return penalties.path_lengths(generator, styles, noise)

    weights = draws.weights(LAYERS * STYLE, int(np.prod(IMAGE)))
    return Case(function, (weights, draws.normal(draws.batch, LAYERS, STYLE), draws.images()))


def _iwae_in_chunks(draws: _Draws) -> Case:
    def function(scale: jax.Array) -> jax.Array:
        def log_weights(key: jax.Array) -> jax.Array:
            return scale[None] * jax.random.normal(key, (CHUNK, draws.batch), scale.dtype)

        key = jax.random.key(0)
        return likelihood.iwae_bound_in_chunks(log_weights, key, IMPORTANCE_SAMPLES, CHUNK)

    return Case(function, (draws.normal(draws.batch),))


def _diffusion_bound(draws: _Draws) -> Case:
    angles = np.linspace(1.5, 0.01, LEVELS)

    def function(data: jax.Array, weights: jax.Array) -> jax.Array:
        return likelihood.diffusion_bound(
            lambda index, noise: weights * noise,
            data,
            np.cos(angles),
            np.sin(angles),
            jax.random.key(0),
        )

    return Case(function, (2 * draws.uniform(draws.batch, *IMAGE) - 1, draws.images()))


def _of_pair(function: Callable[..., jax.Array]) -> Callable[[_Draws], Case]:
    return lambda draws: Case(function, draws.pair())


def _of_one(function: Callable[..., jax.Array]) -> Callable[[_Draws], Case]:
    return lambda draws: Case(function, (draws.normal(draws.batch),))


# Every public function of objectives, by name; a test checks that none is missing.
CASES: dict[str, Callable[[_Draws], Case]] = {
    "minimax_discriminator_loss": _of_pair(adversarial.minimax_discriminator_loss),
    "non_saturating_generator_loss": _of_one(adversarial.non_saturating_generator_loss),
    "saturating_generator_loss": _of_one(adversarial.saturating_generator_loss),
    "least_squares_discriminator_loss": _of_pair(adversarial.least_squares_discriminator_loss),
    "least_squares_generator_loss": _of_one(adversarial.least_squares_generator_loss),
    "hinge_discriminator_loss": _of_pair(adversarial.hinge_discriminator_loss),
    "wasserstein_critic_loss": _of_pair(adversarial.wasserstein_critic_loss),
    "wasserstein_generator_loss": _of_one(adversarial.wasserstein_generator_loss),
    "relativistic_discriminator_loss": _of_pair(adversarial.relativistic_discriminator_loss),
    "relativistic_generator_loss": _of_pair(adversarial.relativistic_generator_loss),
    "input_gradient_norm": _penalty(penalties.input_gradient_norm),
    "r1_penalty": _penalty(penalties.r1_penalty),
    "gradient_penalty": _penalty(penalties.gradient_penalty),
    "path_lengths": _path_lengths,
    "interpolate": lambda draws: Case(
        penalties.interpolate, (draws.images(), draws.images(), draws.uniform(draws.batch))
    ),
    "perturb": lambda draws: Case(
        penalties.perturb, (draws.images(), draws.uniform(), draws.uniform(draws.batch, *IMAGE))
    ),
    "orthogonal_penalty": lambda draws: Case(
        penalties.orthogonal_penalty, (draws.normal(*KERNEL),)
    ),
    "normal_kl": lambda draws: Case(
        likelihood.normal_kl,
        (draws.normal(draws.batch, LATENTS), draws.normal(draws.batch, LATENTS)),
    ),
    "standard_normal_log_prob": lambda draws: Case(
        likelihood.standard_normal_log_prob, (draws.normal(draws.batch, LATENTS),)
    ),
    "bernoulli_log_likelihood": lambda draws: Case(
        likelihood.bernoulli_log_likelihood, (draws.uniform(draws.batch, *IMAGE), draws.images())
    ),
    "normal_log_likelihood": lambda draws: Case(
        likelihood.normal_log_likelihood, (draws.images(), draws.images(), draws.images())
    ),
    "discretized_logistic_log_likelihood": lambda draws: Case(
        likelihood.discretized_logistic_log_likelihood,
        (2 * draws.uniform(draws.batch, *IMAGE) - 1, draws.images(), draws.images()),
    ),
    "discretized_normal_log_likelihood": lambda draws: Case(
        likelihood.discretized_normal_log_likelihood,
        (2 * draws.uniform(draws.batch, *IMAGE) - 1, draws.images(), draws.images()),
    ),
    "diffusion_bound": _diffusion_bound,
    "elbo": _of_pair(likelihood.elbo),
    "free_bits": lambda draws: Case(
        lambda mean_kl: likelihood.free_bits(mean_kl, 0.5), (draws.uniform(LATENTS),)
    ),
    "iwae_bound": lambda draws: Case(
        likelihood.iwae_bound, (draws.normal(IMPORTANCE_SAMPLES, draws.batch),)
    ),
    "iwae_bound_in_chunks": _iwae_in_chunks,
    "bits_per_dim": lambda draws: Case(
        lambda nats: likelihood.bits_per_dim(nats, int(np.prod(IMAGE))),
        (draws.normal(draws.batch),),
    ),
}
# Functions whose arrays do not depend on the batch size.
WITHOUT_BATCH = ("orthogonal_penalty", "free_bits")


def calls(name: str, batch: int, dtype: str) -> dict[str, Case]:
    """Return two cases of a function: its `value`, and `gradient`, which gives its mean too."""
    function, arguments = CASES[name](_Draws(batch, dtype))

    def mean(*arguments: jax.Array) -> jax.Array:
        return jnp.mean(function(*arguments))

    gradient: Any = jax.value_and_grad(mean, argnums=tuple(range(len(arguments))))
    return {"value": Case(function, arguments), "gradient": Case(gradient, arguments)}


def bench_losses(
    batch_sizes: Sequence[int] = (64, 1024),
    dtypes: Sequence[Dtype] = ("float32", "bfloat16"),
    functions: Positional[Sequence[str]] = (),
    rounds: int = 15,
) -> Results:
    """Time every function of genjax.objectives and its gradient, compiled and eager.

    Args:
        batch_sizes: Numbers of examples in a call.
        dtypes: Types of the arrays.
        functions: Names of the functions. None: all.
        rounds: Number of samples of each; the table has medians, and the spread of the middle half.

    Returns:
        Rows of `function`, `what` (value or gradient), `batch`, `dtype`, with `seconds` of a
        compiled call, `eager_seconds` operation by operation, `compile_seconds`, `flops` as XLA
        counts them (a loop's body once) and `bytes` read and written (loops in full).

    Raises:
        UsageError: A function is unknown, or a number is not positive.
    """
    for name, value in (("rounds", rounds), *(("batch_sizes", size) for size in batch_sizes)):
        if value < 1:
            raise UsageError(f"{name} = {value}: should be at least 1")
    unknown = [name for name in functions if name not in CASES]
    if unknown:
        raise UsageError(f"no function {unknown[0]!r} in objectives: known are {', '.join(CASES)}")
    limits = measure_limits(dtypes)
    wanted = [
        (name, batch, dtype)
        for name in functions or CASES
        for batch in (batch_sizes[:1] if name in WITHOUT_BATCH else batch_sizes)
        for dtype in dtypes
    ]
    rows: list[Row] = []
    samplers: list[Callable[[], float]] = []
    with without_cache():  # with a cache, compiling would take no time
        for name, batch, dtype in tqdm(wanted, unit="function"):
            for what, case in calls(name, batch, dtype).items():
                row, compiled = _compile(case)
                key = {"batch": None if name in WITHOUT_BATCH else batch, "dtype": dtype}
                rows.append({"function": name, "what": what, **key, **row})
                samplers += [sampler(compiled), sampler(case.call)]
    # Samples alternate between functions, so that a disturbance spoils only one of each.
    times = alternating_times(dict(enumerate(samplers)), rounds)
    for i, row in enumerate(rows):
        row |= {"seconds": times[2 * i], "eager_seconds": times[2 * i + 1]}
    return Results("losses", machine(), limits, rows)


def _compile(case: Case) -> tuple[Row, Callable[[], Any]]:
    """Compile a function; return its costs as fields of a row, and its compiled call."""
    start = time.perf_counter()
    traced = jax.jit(case.function).trace(*case.arguments)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    costs: Any = compiled.cost_analysis() or {}
    row = {
        "compile_seconds": seconds,
        # XLA does not count the products that it passes to a library.
        "flops": max(int(costs.get("flops", 0)), flops(traced.jaxpr)),
        "bytes": traffic(compiled.as_text()).memory,
    }
    return row, functools.partial(compiled, *case.arguments)


def columns(limits: Limits) -> list[Column]:
    """Return the columns of the table."""

    def share(row: Row, amount: float, limit: float) -> str:
        return f"{100 * amount / float(np.median(row['seconds'])) / limit:.3g}%"

    def spread(row: Row) -> str:
        low, high = np.percentile(row["seconds"], (25, 75))
        return f"{100 * (high - low) / np.median(row['seconds']):.0f}%"

    def times_eager(row: Row) -> str:
        return f"{np.median(row['eager_seconds']) / np.median(row['seconds']):.3g}"

    return [
        ("function", lambda row: row["function"]),
        ("what", lambda row: row["what"]),
        ("batch", lambda row: "" if row["batch"] is None else f"{row['batch']:,}"),
        ("dtype", lambda row: row["dtype"]),
        ("compile", lambda row: duration(row["compile_seconds"])),
        ("run", lambda row: duration(float(np.median(row["seconds"])))),
        ("spread", spread),
        ("eager / run", times_eager),
        ("MFLOP", lambda row: f"{row['flops'] / 1e6:.3g}"),
        ("MB", lambda row: f"{row['bytes'] / 1e6:.3g}"),
        ("of product", lambda row: share(row, row["flops"], limits.product[row["dtype"]])),
        ("of copy", lambda row: share(row, row["bytes"], limits.copy)),
    ]
