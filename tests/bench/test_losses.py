"""Tests of the benchmark of losses: every function is timed, and the table is complete."""

import dataclasses
import inspect
import json

import jax
import numpy as np
import pytest

from genjax.bench import losses, results
from genjax.objectives import adversarial, likelihood, penalties
from genjax.types import UsageError


def test_every_function_of_objectives_is_there():
    public = {
        name
        for module in (adversarial, likelihood, penalties)
        for name, each in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and each.__module__ == module.__name__
    }
    assert set(losses.CASES) == public - {"samples_at_once"}  # a number, not a loss


@pytest.mark.parametrize("name", losses.CASES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_each_is_called_with_what_it_takes(name, dtype):
    cases = losses.calls(name, 4, dtype)
    assert set(cases) == {"value", "gradient"}
    value, gradients = cases["gradient"].call()
    np.testing.assert_allclose(
        float(value), float(np.mean(np.asarray(cases["value"].call(), np.float32))), rtol=0.05
    )
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in jax.tree.leaves(gradients))
    assert any(np.asarray(g).any() for g in jax.tree.leaves(gradients))


@pytest.fixture(scope="module")
def found():
    return losses.bench_losses((8,), ("float32",), ("elbo", "gradient_penalty"), rounds=3)


def test_rows_say_what_was_measured(found):
    assert [row["what"] for row in found.rows] == ["value", "gradient"] * 2
    penalty = found.rows[-1]
    assert len(penalty["seconds"]) == len(penalty["eager_seconds"]) == 3
    assert penalty["compile_seconds"] > 0
    # The critic's forward and backward pass, and both again for the gradient in weights and points.
    product = 2 * 8 * 3072 * losses.HIDDEN
    assert 4 * product <= penalty["flops"] < 8 * product
    assert penalty["bytes"] > 4 * 8 * 3072
    text = results.table(found.rows, losses.columns(found.limits))
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "gradient_penalty" in text


def test_later_programs_are_kept_again(found):
    assert jax.config.jax_enable_compilation_cache


def test_results_are_saved_and_compared(found, tmp_path):
    path = tmp_path / "losses.json"
    results.save(found, path)
    assert json.loads(path.read_text())["kind"] == "losses"
    assert len(path.with_suffix(".csv").read_text().splitlines()) == 5
    assert results.load(path, "losses") == found
    (line,) = results.against(found, found)
    assert line.startswith("0 slower, 4 same, 0 faster, of 4")


def test_only_what_is_beyond_chance_is_called_slower(found):
    def of(*seconds):  # set: what was measured may vary as much as it likes
        return dataclasses.replace(found, rows=[found.rows[0] | {"seconds": list(seconds)}])

    one, line = results.against(of(3.0, 3.3, 3.6), of(1.0, 1.1, 1.2))
    assert one.startswith("slower   3.00 (2.50 to 3.60)  elbo value 8 float32")
    assert line.startswith("1 slower, 0 same, 0 faster, of 1")
    _, line = results.against(of(1.0, 1.1, 1.2), of(3.0, 3.3, 3.6))
    assert line.startswith("0 slower, 0 same, 1 faster, of 1")
    (line,) = results.against(of(3.0, 9.0, 27.0), of(1.0, 3.0, 9.0))
    assert line.startswith("0 slower, 1 same, 0 faster, of 1")


@pytest.mark.parametrize(
    ("write", "kind", "message"),
    [
        (None, "losses", "no such file"),
        ("not json", "losses", "is not a result of genjax bench"),
        ("{}", "losses", "is not a result of genjax bench"),
        ("saved", "steps", "is of losses; wanted one of steps"),
    ],
)
def test_what_cannot_be_compared_with_is_refused(found, tmp_path, write, kind, message):
    path = tmp_path / "old.json"
    if write == "saved":
        results.save(found, path)
    elif write is not None:
        path.write_text(write)
    with pytest.raises(UsageError, match=message):
        results.load(path, kind)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"functions": ("nope",)}, "no function 'nope' in objectives: known are minimax"),
        ({"rounds": 0}, "rounds = 0: should be at least 1"),
        ({"batch_sizes": (0,)}, "batch_sizes = 0: should be at least 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        losses.bench_losses(**options)


@pytest.mark.parametrize("name", ["losses.txt", "missing/losses.json"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"losses\.(txt|json)"):
        results.check_output(tmp_path / name)
