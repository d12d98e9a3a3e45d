"""Tests of the benchmark of train steps: processes, known numbers, and counterparts."""

import contextlib
import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.bench import profile as profiling
from genjax.bench import results, startup, steps
from genjax.bench.profile import profile, to_text
from genjax.bench.timing import Limits
from genjax.data.sources import expected_spec
from genjax.planning.cost import flops, work_of_instructions
from genjax.run.recipe import load_recipe
from genjax.types import UsageError
from tests import counterparts

LIMITS = Limits(10e9, 5e-6, {"float32": 100e9, "bfloat16": 100e9})


@pytest.fixture(scope="module")
def found():
    options = steps.Options(
        batch_size=32,
        rounds=2,
        counterparts={"slow": counterparts.slow, "absent": counterparts.absent},
    )
    return steps.bench_steps(["gan_digits_paper"], options, devices=(1, 2))


@pytest.mark.slow
def test_rows_say_what_was_measured(found):
    one, two = found.rows
    assert (one["devices"], two["devices"]) == (1, 2)
    assert len(one["seconds"]) == 2
    assert one["loop_seconds"] > 0 and two["loop_seconds"] is None
    assert one["peak_bytes"] > one["program_bytes"] > 0
    # G and D of 64 -> 256 -> 256 pixels and 256 -> 128 -> 1: G forward and backward, D on fakes
    # and real images forward and backward, and on fakes once more with a gradient in the images.
    g, d = 64 * 256 + 256 * 256, 256 * 128 + 128
    floor = 2 * 32 * (2 * g + 6 * d)
    assert floor < one["flops"] < 1.5 * floor
    text = results.table(found.rows, steps.columns(found.limits))
    assert "gan_digits_paper" in text and "images/s" in text
    markdown = results.table(found.rows, steps.columns(found.limits), markdown=True)
    assert markdown.count("\n") == 3


@pytest.mark.slow
def test_counterparts_alternate_with_a_recipe(found):
    for row in found.rows:
        assert row["slow_seconds"] == [counterparts.SECONDS] * 2
        ratios = [counterparts.SECONDS / seconds for seconds in row["seconds"]]
        said = f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        assert steps.ratio("slow", row) == said
        assert (row["absent_note"], steps.ratio("absent", row)) == (counterparts.REASON, "none")
        assert steps.ratio("unknown", row) == ""
    assert results.notes(found.rows)[0] == f"gan_digits_paper: absent: {counterparts.REASON}"


@pytest.mark.parametrize(
    ("recipes", "options", "devices", "message"),
    [
        (["nope"], {}, (1,), "no recipe 'nope'"),
        (["gan_digits"], {"rounds": 0}, (1,), "rounds = 0: should be at least 1"),
        (["gan_digits"], {}, (3,), "devices = 3: should divide the batch_size of gan_digits, 64"),
        (["gan_digits"], {"dtype": "float16"}, (1,), "dtype"),
    ],
)
def test_wrong_options_are_named(recipes, options, devices, message):
    with pytest.raises(ValueError, match=message):
        steps.bench_steps(recipes, steps.Options(**options), devices)


def test_data_that_are_not_here_leave_the_loop_out(tmp_path, caplog):
    recipe = load_recipe("gan_mnist_paper")
    options = dataclasses.replace(recipe.data_options, data_dir=str(tmp_path / "no"), size=(28,))
    recipe = dataclasses.replace(recipe, data=str(tmp_path / "no.zip"), data_options=options)
    assert steps.loop_seconds(recipe, 10) is None
    assert "was not measured" in caplog.text


@pytest.mark.slow
def test_operations_of_a_step_are_counted_where_it_is_known_what_is_due():
    """The generator trains at one step in five; the mean cost counts it a fifth."""
    recipe = load_recipe("wgan_digits_paper")
    spec = expected_spec(recipe.data, recipe.data_options)
    trainer = steps.Trainer(recipe, spec, 1, LIMITS)
    step = functools.partial(recipe.functions.step, recipe.model)
    state = recipe.functions.init(recipe.model, jax.random.key(0), spec)
    images = np.zeros((recipe.batch_size, *spec.shape), np.uint8)
    batch = (images, np.zeros(recipe.batch_size, np.int32))
    jaxpr = jax.make_jaxpr(
        lambda state, images, labels, key: step(state, steps.Batch(images, labels), key)
    )(state, *batch, jax.random.key(0))
    costliest = flops(jaxpr)
    assert 0.6 * costliest < trainer.costs["flops"] < 0.95 * costliest

    def every_fifth(step):
        return jax.lax.cond(step % 5 == 4, lambda x: x @ x, lambda x: x, jnp.ones((8, 8)))

    jaxpr = jax.make_jaxpr(every_fifth)(0)
    assert [flops(jaxpr, [np.int32(i)]) for i in range(5)] == [0, 0, 0, 0, 2 * 8**3]
    assert flops(jaxpr) == flops(jaxpr, [None]) == 2 * 8**3


def test_work_of_instructions_is_that_of_the_program():
    def function(x, kernel, y):
        out = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(out).sum((1, 2)) @ y

    arguments = (jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 16)), jnp.ones((16, 5)))
    compiled = jax.jit(function).lower(*arguments).compile()
    works = work_of_instructions(compiled.as_text())
    total = flops(jax.make_jaxpr(function)(*arguments))
    assert total == 2 * (2 * 64 * 16 * 36 + 2 * 5 * 16)
    # The parts of a fusion are listed beside it.
    outer = [w for name, w in works.items() if w.flops]
    assert max(w.flops for w in outer) == 2 * 2 * 64 * 16 * 36
    assert any("dot_general" in w.source for w in works.values())


@pytest.mark.parametrize("devices", [1, 8])
def test_a_profile_tells_of_each_operation_of_a_step(devices, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(profiling, "measure_limits", lambda dtypes: LIMITS)
    monkeypatch.setattr(steps, "STEPS", (16,))
    recipe = dataclasses.replace(load_recipe("gan_digits_paper"), batch_size=16 * devices)
    found = profile(recipe, tmp_path / "trace")
    seconds = [each.seconds for each in found.operations]
    assert seconds == sorted(seconds, reverse=True)
    # A device does one after another, or waits for the others within one.
    assert 0.3 * found.seconds < sum(seconds) < 2 * found.seconds
    products = [each for each in found.operations if each.work.flops]
    assert all(each.calls == 1 for each in products)
    # A device has 16 images; the products are those of the floor above, layer by layer. XLA may
    # leave those of D's output, which are few, without a name, and make products of sums.
    layers = {
        "Generator/hidden_0": 2 * 64 * 256,  # forward, and the gradient of its weights
        "Generator/output": 3 * 256 * 256,  # and that of its inputs
        # Forward and a gradient thrice: in weights by real images and fakes, and in fakes.
        "Discriminator/hidden_0": 6 * 256 * 128,
    }
    for layer, size in layers.items():
        flops = [e.work.flops for e in products if layer in e.layer.replace(")", "")]
        assert sum(flops) == 2 * 16 * size
    assert all(each.seconds > 0 for each in products)
    text = to_text(found, 5)
    assert text.splitlines()[0].startswith("operation")
    assert "5 of " in text and "tensorboard --logdir" in text


def test_what_cannot_be_profiled_is_refused(tmp_path):
    recipe = load_recipe("gan_digits")
    with pytest.raises(UsageError, match="is there already"):
        profile(recipe, tmp_path)
    with pytest.raises(UsageError, match="pmap"):
        profile(dataclasses.replace(recipe, parallel="pmap"), tmp_path / "other")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has 0 files .xplane.pb; wanted one"),
        ({"a.xplane.pb": b"", "b.xplane.pb": b""}, "has 2 files .xplane.pb; wanted one"),
        ({"a.xplane.pb": b"no trace"}, "a.xplane.pb: cannot be read"),
        ({"a.xplane.pb": b""}, "a.xplane.pb: holds no operation of the train step"),
    ],
)
def test_a_trace_that_tells_nothing_is_refused(files, message, monkeypatch, tmp_path):
    folder = tmp_path / "trace"

    @contextlib.contextmanager
    def trace(name):
        yield
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)

    monkeypatch.setattr(jax.profiler, "trace", trace)
    monkeypatch.setattr(profiling, "measure_limits", lambda dtypes: LIMITS)
    monkeypatch.setattr(profiling, "Trainer", mock.Mock(return_value=mock.Mock(hlo="")))
    with pytest.raises(UsageError, match=message):
        profile(load_recipe("gan_digits"), folder)


@pytest.mark.slow
def test_startup_is_timed_from_outside():
    found = startup.bench_startup(("gan_digits",), rounds=1)
    assert [row["what"] for row in found.rows] == ["cold", "cached"]
    assert all(row["seconds"][0] > 0.5 for row in found.rows)


def test_a_command_that_fails_to_start_is_quoted(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "import genjax\nfrom genjax.models.gan import GanConfig\n"
        "recipe = genjax.Recipe(family='gan', model=GanConfig(), data='no-such.zip')\n"
    )
    with pytest.raises(UsageError, match=r"^genjax train: .*no-such\.zip"):
        startup.bench_startup((str(recipe),), 1)
