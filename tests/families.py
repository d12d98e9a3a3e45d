"""Parametrize tests by the families."""

from collections.abc import Callable

import pytest

from genjax.models import FAMILIES


def slow_but(*fast: str) -> Callable[[Callable], Callable]:
    """Run a test for each family's name, slow but for `fast`; a family's tests share a worker."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        group = pytest.mark.xdist_group(name)
        return [group] if name in fast else [group, pytest.mark.slow]

    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=marks(name)) for name in FAMILIES]
    )
