"""Parameters that do not train, as D's first layers in fine-tuning (Mo et al. 2020, FreezeD)."""

import fnmatch
from collections.abc import Sequence

import jax

from genjax.steps.state import named_leaves
from genjax.types import State, UsageError

# Names of layers that a message lists.
MOST_NAMES = 20


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a leaf of a state is a network's parameter that fits a pattern, as in a shell.

    A pattern fits a name, or what stands before a dot of it: a layer, or a network.
    """
    is_parameter = name.split(".")[1:2] == ["params"] and not name.startswith("ema.")
    return is_parameter and any(
        fnmatch.fnmatchcase(name, each)
        for pattern in patterns
        for each in (pattern, f"{pattern}.*")
    )


def check_frozen(patterns: Sequence[str], state: State) -> None:
    """Raise a `UsageError` if a pattern fits no parameter, or all are frozen."""
    names = list(named_leaves(state))
    if patterns and all(is_frozen(name, patterns) for name in names if is_frozen(name, ["*"])):
        raise UsageError(f"freeze = {' '.join(patterns)}: nothing is left to train")
    for pattern in patterns:
        if not any(is_frozen(name, [pattern]) for name in names):
            known = list({n.rpartition(".")[0]: None for n in names if is_frozen(n, ["*"])})
            more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
            raise UsageError(
                f"freeze = {pattern}: fits none of {', '.join(known[:MOST_NAMES])}{more}"
            )


def freeze(patterns: Sequence[str], before: State, after: State) -> State:
    """Return the state after a step, with the parameters that `patterns` fit as before it."""
    old = named_leaves(before)
    leaves = [
        old[name] if is_frozen(name, patterns) else leaf
        for name, leaf in named_leaves(after).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(after), leaves)
