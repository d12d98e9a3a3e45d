"""Warnings about training that has gone wrong for long.

The thresholds come from runs of the games on the digits, on MNIST and on mixtures of Gaussians.
Healthy runs keep a `diversity` of 0.9 to 1.05 after their first steps (0.79 where samples are gray,
as those of the paper's DCGAN are for long) and a `d_fake` above 0.3. With ten times the
discriminator's learning rate `d_fake` falls below 0.1, and `diversity` falls below 0.75 or rises to
1.3, as the samples move to the edges of the data.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from genjax.types import ImageSpec

# Metrics of samples at each save; lower is better, but for the last, which is of copies below 1.
ENERGY_DISTANCE, FRECHET_DISTANCE = "energy_distance", "frechet_distance"
PIXEL_MEMORIZATION = "pixel_memorization"

# Consecutive log records that must show a sign before there is a warning: the first steps often
# show one for a while.
PATIENCE = 30
# Consecutive records for metrics that are rarely evaluated.
PATIENCE_DISTANCE = 3
# Consecutive records for a value that is compared with its own recent mean, which soon follows it,
# and the number of records in that mean.
PATIENCE_SIGMA, MEMORY_SIGMA = 3, 30
# What gets better by this starts the count anew: WGAN-GP takes hundreds of steps of its generator
# until its first samples are diverse, but they become so. Those of a game that is held up take
# longer, and are warned of after so many records.
RISE, LONGEST = 0.05, 60
# Fewer training images than these are learned by heart.
FEW_IMAGES = 200


# What to try against a sign of trouble, by a model's config: options that it has, and that have not
# been taken yet; None if there are none.
Advice = Callable[[Any], str | None]
# The fields of configs with an optimizer.
PLAYERS = ("generator", "discriminator", "critic", "optimizer")


class Rule(NamedTuple):
    """A sign of trouble in the metrics of a log record, and what to say of it.

    Attributes:
        name: A few words for it.
        needs: Names of the metrics that it reads.
        holds: Function from the metrics to whether they show the sign.
        patience: Number of consecutive records that must show it.
        text: What is wrong.
        advice: What to try.
        progress: A number whose rise starts the count anew; None if there is none.
        longest: Number of consecutive records after which it is said in spite of progress.
    """

    name: str
    needs: tuple[str, ...]
    holds: Callable[[Mapping[str, float]], bool]
    patience: int
    text: str
    advice: tuple[Advice, ...]
    progress: Callable[[Mapping[str, float]], float] | None = None
    longest: float = math.inf

    def warning(self, model: Any) -> str:
        """Return the warning for a model, by its config."""
        return _advise(self.text, self.advice, model)


class Alarm(NamedTuple):
    """A warning, and the name of its rule."""

    name: str
    warning: str


def _advise(text: str, advice: tuple[Advice, ...], model: Any) -> str:
    """Return what is wrong, and what a model's user may try."""
    found = [option for each in advice if (option := each(model))]
    if not found:  # a registered family may have no option of these
        return text
    *others, last = found
    return f"{text}. Try {', '.join(others)}{' or ' * bool(others)}{last}"


def _always(text: str) -> Advice:
    return lambda model: text


def _lower_rates(*players: str) -> Advice:
    def advice(model: Any) -> str | None:
        found = [f"--{name}.learning-rate" for name in players if hasattr(model, name)]
        return f"a lower {' and '.join(found)}" if found else None

    return advice


def _falling_rates(model: Any) -> str | None:
    constant = [
        f"--{name}.schedule linear --{name}.decay-steps STEPS"
        for name in PLAYERS
        if hasattr(model, name) and getattr(model, name).schedule == "constant"
    ]
    return " ".join(constant) or None


def _steadier_game(model: Any) -> str | None:
    """Return the relativistic loss with R1 and R2, or what of it the model does not have yet."""
    gammas = [name for name in ("r1_gamma", "r2_gamma") if hasattr(model, name)]
    options = [f"--{name.replace('_', '-')} 1" for name in gammas if not getattr(model, name)]
    if hasattr(model, "loss") and gammas and model.loss != "relativistic":
        options = ["--loss relativistic", *options]
    if options:
        return " ".join(options)
    larger = " and ".join(f"--{name.replace('_', '-')}" for name in gammas)
    return f"a larger {larger}" if larger else None


def _augmentation(model: Any) -> str | None:
    if hasattr(model, "ada_target"):
        return "--augment ada" if model.augment == "none" else None
    return "--augment diff" if getattr(model, "augment", None) == "none" else None


def _stronger_ada(model: Any) -> str | None:
    return "a smaller --ada-target" if getattr(model, "augment", None) == "ada" else None


def _larger_penalty(model: Any) -> str | None:
    return "a larger --r1-gamma" if hasattr(model, "r1_gamma") else None


def _wider_judge(model: Any) -> str | None:
    for name in ("discriminator", "critic"):
        for width in ("features", "hidden_sizes", "channel_max"):
            if width in getattr(getattr(model, name, None), "__dataclass_fields__", {}):
                return f"larger --{name}.{width.replace('_', '-')}"
    return None


def _weaker_kl(model: Any) -> str | None:
    if getattr(model, "bound", None) != "elbo":
        return None
    return "a KL warm-up (--kl-warmup-steps), --free-bits, a lower --beta"


DISTANCE_ADVICE = (
    _always("fewer --steps (the best checkpoint is kept)"),
    _falling_rates,
    _lower_rates(*PLAYERS),
)

RULES = (
    Rule(
        "D wins",
        ("accuracy_real", "accuracy_fake", "d_fake"),
        lambda m: min(m["accuracy_real"], m["accuracy_fake"]) > 0.9 and m["d_fake"] < 0.15,
        PATIENCE,
        "the discriminator wins: it tells nearly every generated image from a real one, and the "
        "generator learns little from that",
        (_steadier_game, _lower_rates("discriminator")),
    ),
    Rule(
        "collapse",
        ("diversity",),
        lambda m: m["diversity"] < 0.75,
        PATIENCE,
        "mode collapse: the samples are much more alike than the data",
        (_steadier_game, _lower_rates("generator", "discriminator", "critic")),
        progress=lambda m: m["diversity"],
        longest=LONGEST,
    ),
    Rule(
        "critic runs away",
        ("wasserstein_estimate", "diameter"),
        lambda m: abs(m["wasserstein_estimate"]) > m["diameter"],
        PATIENCE,
        "the critic runs away: its estimate of a distance (wasserstein_estimate) is larger than "
        "that of any two images, so that nothing bounds its slope",
        (_always("a larger --gradient-penalty-weight"), _lower_rates("critic")),
    ),
    Rule(
        "edges",
        ("diversity",),
        lambda m: m["diversity"] > 1.15,
        PATIENCE,
        "the samples are spread wider than the data: they keep to its edges, or are noise; the "
        "discriminator may be too strong",
        (_steadier_game, _lower_rates("discriminator", "critic")),
    ),
    Rule(
        "by heart",
        ("real_sign",),
        lambda m: m["real_sign"] > 0.9,
        PATIENCE,
        "the discriminator is sure of nearly every real image (real_sign), as it is of images "
        "that it knows by heart",
        (_augmentation, _stronger_ada, _larger_penalty),
    ),
    Rule(
        "posterior collapse",
        ("active_units", "active_fraction"),
        lambda m: m["active_units"] < 1 or m["active_fraction"] < 0.1,
        PATIENCE,
        "posterior collapse: few or none of the latents carry anything of the image",
        (_weaker_kl, _always("a weaker decoder (--hidden-sizes, --features)")),
        progress=lambda m: m["active_fraction"],
    ),
    Rule(
        "not invertible",
        ("round_trip_error",),
        # A quarter of the width of one of 256 gray levels.
        lambda m: m["round_trip_error"] > 1e-3,
        1,
        "the flow can hardly be inverted: an image comes back with an error of over a quarter of a "
        "gray level (round_trip_error), so samples are not what the likelihood speaks of",
        (_lower_rates("optimizer"),),
    ),
    Rule(
        "overflow",
        ("overflow_fraction",),
        lambda m: m["overflow_fraction"] > 0.01,
        PATIENCE_DISTANCE,
        "some samples overflow where the flow has seen no data (overflow_fraction)",
        (_always("samples with a --temperature below 1"), _always("more --steps")),
    ),
    Rule(
        "explosion",
        ("g_max_singular_value", "g_max_singular_value_before"),
        lambda m: m["g_max_singular_value"] > 2 * m["g_max_singular_value_before"],
        PATIENCE_SIGMA,
        "the generator's largest singular value explodes (g_max_singular_value): it is over "
        "twice its recent mean, the sign of a training that collapses. The best checkpoint is kept",
        (
            _always(
                "a new run with --init RUN, which begins with its weights, and a lower "
                "--generator.learning-rate"
            ),
        ),
    ),
    Rule(
        "worse",
        (FRECHET_DISTANCE, "best_frechet_distance"),
        lambda m: m[FRECHET_DISTANCE] > 1.5 * m["best_frechet_distance"] > 0,
        PATIENCE_DISTANCE,
        f"the samples get worse: {FRECHET_DISTANCE} is over one and a half times its best",
        DISTANCE_ADVICE,
    ),
    Rule(
        "worse",
        (ENERGY_DISTANCE, "best_energy_distance"),
        # In noise, or beside a distance that tells more, it says little.
        lambda m: (
            m[ENERGY_DISTANCE] > 3 * m["best_energy_distance"] > 0 and FRECHET_DISTANCE not in m
        ),
        PATIENCE_DISTANCE,
        f"the samples get worse: {ENERGY_DISTANCE} is over three times its best",
        DISTANCE_ADVICE,
    ),
    Rule(
        "far",
        (PIXEL_MEMORIZATION,),
        lambda m: m[PIXEL_MEMORIZATION] > 1.7,
        PATIENCE_DISTANCE,
        "the samples are far from all training images, and do not come nearer "
        f"({PIXEL_MEMORIZATION})",
        (
            _steadier_game,
            _lower_rates(*PLAYERS),
            _wider_judge,
            _always("more --steps"),
        ),
        progress=lambda m: -m[PIXEL_MEMORIZATION],
    ),
    Rule(
        "copies",
        (PIXEL_MEMORIZATION,),
        lambda m: m[PIXEL_MEMORIZATION] < 0.93,  # held-out images have 0.98 to 1
        PATIENCE_DISTANCE,
        "the samples are copies of training images: they are nearer to them than these are to one "
        f"another ({PIXEL_MEMORIZATION})",
        (_always("more images"), _augmentation, _always("fewer --steps")),
    ),
)


def few_images(model: Any, images: int) -> list[Alarm]:
    """Return the alarm of a game that has too few training images; none for other models."""
    if images >= FEW_IMAGES or not hasattr(model, "generator"):
        return []
    text = (
        f"{images} training images: a discriminator soon knows so few by heart, and samples become "
        "copies"
    )
    return [Alarm("few images", _advise(text, (_always("more images"), _augmentation), model))]


class Watch:
    """A counter of the consecutive log records for which each rule holds.

    Args:
        model: The model's config, by whose options the warnings say what to try.
        spec: The shape of the images.
    """

    def __init__(self, model: Any, spec: ImageSpec) -> None:
        self._model = model
        self._diameter = 2 * math.sqrt(math.prod(spec.shape))  # of all images in [-1, 1]
        # Records that have shown each rule's sign, in all and since the last progress.
        self._held, self._counted = [0] * len(RULES), [0] * len(RULES)
        self._began, self._said = [0.0] * len(RULES), [False] * len(RULES)
        self._best = {name: float("inf") for name in (ENERGY_DISTANCE, FRECHET_DISTANCE)}
        self._sigma: float | None = None

    def __call__(self, record: Mapping[str, float]) -> list[Alarm]:
        """Take in a log record and return the alarms that it triggers, each once an episode."""
        metrics = dict(record)
        if hasattr(self._model, "gradient_penalty_weight"):
            metrics["diameter"] = self._diameter
        for name, best in self._best.items():
            self._best[name] = metrics[f"best_{name}"] = min(best, record.get(name, best))
        if "g_max_singular_value" in record:
            if self._sigma is None:
                self._sigma = record["g_max_singular_value"]
            metrics["g_max_singular_value_before"] = self._sigma
            self._sigma += (record["g_max_singular_value"] - self._sigma) / MEMORY_SIGMA
        due = []
        for i, rule in enumerate(RULES):
            if any(name not in metrics for name in rule.needs):
                continue
            value = rule.progress(metrics) if rule.progress else 0.0
            if not rule.holds(metrics):
                self._held[i], self._counted[i], self._said[i] = 0, 0, False
                continue
            if self._held[i] == 0 or value > self._began[i] + RISE:
                self._counted[i], self._began[i] = 0, value
            self._held[i] += 1
            self._counted[i] += 1
            is_due = self._counted[i] >= rule.patience or self._held[i] >= rule.longest
            if is_due and not self._said[i]:
                self._said[i] = True
                due.append(Alarm(rule.name, rule.warning(self._model)))
        return due
