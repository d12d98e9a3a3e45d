"""Tests of what options name."""

import pytest

from genjax.run.options import class_number
from genjax.types import UsageError

NAMES = ["cat", "2", "1", "004", "e"]


def test_a_class_is_given_by_its_name_or_else_its_number():
    for given, number in (("cat", 0), ("2", 1), (2, 1), ("004", 3), ("4", 4), (4, 4), ("0", 0)):
        assert class_number("label", given, NAMES) == number


@pytest.mark.parametrize("given", ["dog", "5", 5, "-1", -1, "1_0", "٣", "9" * 5000])
def test_what_is_no_class_is_refused(given):
    with pytest.raises(UsageError, match="from 0 to 4, or the name of a class: cat, 2, 1, 004, e"):
        class_number("label", given, NAMES)
