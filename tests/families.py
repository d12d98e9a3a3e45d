"""Parametrize tests by the families."""

from collections.abc import Callable

import pytest

from genjax.models import FAMILIES


def each_family(*fast: str, slow: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Run a test for each family's name: in every run for `fast`, then slow, then exhaustive.

    The tests of a family share a worker.
    """

    def marks(name: str) -> list[pytest.MarkDecorator]:
        group = pytest.mark.xdist_group(name)
        if name in fast:
            return [group]
        return [group, pytest.mark.slow if name in slow else pytest.mark.exhaustive]

    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=marks(name)) for name in FAMILIES]
    )
