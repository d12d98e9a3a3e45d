"""Tests of the costs of a compiled program, and of the report on them."""

import dataclasses
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from genjax.data.sources import expected_spec
from genjax.planning.compile import (
    CHIPS,
    Program,
    advice,
    communication_seconds,
    compile_step,
    roofline,
    to_text,
)
from genjax.planning.cost import flops, peak_bytes, traffic
from genjax.run.environment import environment
from genjax.run.recipe import load_recipe
from genjax.run.states import abstract_state
from genjax.types import UsageError

pytestmark = pytest.mark.usefixtures("optimized_programs")


def _flops(function, *shapes):
    return flops(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)))


def test_products_and_convolutions_are_counted():
    assert _flops(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert _flops(jnp.matmul, (4, 3, 5), (4, 5, 7)) == 4 * 2 * 3 * 5 * 7

    def conv(x, kernel, **options):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)

    # 6x6 outputs of 8 features, each of a 3x3 window over 2 channels, for 5 images.
    wanted = 5 * 6 * 6 * 8 * 2 * (3 * 3 * 2)
    options = {"window_strides": (1, 1), "padding": "VALID"}
    assert _flops(lambda x, k: conv(x, k, **options), (5, 8, 8, 2), (3, 3, 2, 8)) == wanted
    # Three of four values of a dilated input are zeros.
    dilated = options | {"lhs_dilation": (2, 2), "padding": ((1, 2), (1, 2))}
    found = _flops(lambda x, k: conv(x, k, **dilated), (5, 4, 4, 2), (3, 3, 2, 8))
    assert found == 5 * 8 * 8 * 8 * 2 * (3 * 3 * 2) // 4


def test_loops_count_in_full_and_of_branches_the_costliest():
    def loop(x, w):
        return lax.scan(lambda x, _: (x @ w, None), x, None, length=9)[0]

    product = 2 * 4 * 6 * 6
    assert _flops(loop, (4, 6), (6, 6)) == 9 * product
    assert _flops(jax.jit(loop), (4, 6), (6, 6)) == 9 * product

    def branch(x, w):
        return lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert _flops(branch, (4, 6), (6, 6)) == 2 * product
    # The gradient of a product is two, and checkpoints compute it once more.
    grad = jax.grad(lambda x, w: jnp.sum(jax.checkpoint(jnp.matmul)(x, w) ** 2), argnums=(0, 1))
    assert _flops(grad, (4, 6), (6, 6)) >= 3 * product


@pytest.mark.parametrize(("precision", "passes"), [("default", 1), ("high", 3), ("highest", 6)])
def test_products_of_float32_count_for_each_pass_of_a_tpu(precision, passes):
    def loop(x, w):
        return lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=9)[0]

    def count(function, dtype):
        with jax.default_matmul_precision(precision):
            program = jax.make_jaxpr(function)(jnp.zeros((4, 6), dtype), jnp.zeros((6, 6), dtype))
        return flops(program, passes=True) / flops(program)

    def branch(x, w):
        return lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)

    for function in (jax.jit(loop), branch):
        assert count(function, jnp.float32) == passes
        assert count(function, jnp.bfloat16) == 1


def test_of_branches_the_one_of_most_passes_counts():
    def branch(x, w):
        return lax.cond(x[0, 0] > 0, lambda: jnp.dot(x, w, precision="highest"), lambda: x @ w @ w)

    program = jax.make_jaxpr(branch)(jnp.zeros((4, 6)), jnp.zeros((6, 6)))
    assert (flops(program), flops(program, passes=True)) == (2 * 288, 6 * 288)


def test_traffic_is_near_that_of_xla_where_there_is_no_loop():
    def function(x, w):
        return jnp.tanh(x @ w) @ w

    compiled = jax.jit(function).lower(jnp.zeros((64, 128)), jnp.zeros((128, 128))).compile()
    wanted = compiled.cost_analysis()["bytes accessed"]
    np.testing.assert_allclose(traffic(compiled.as_text()).memory, wanted, rtol=0.3)
    assert peak_bytes(compiled) >= 4 * (2 * 64 * 128 + 128 * 128)


def test_traffic_of_a_loop_counts_its_trips():
    def function(x, ws):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]

    def memory(length):
        shapes = (jnp.zeros((64, 128)), jnp.zeros((length, 128, 128)))
        return traffic(jax.jit(function).lower(*shapes).compile().as_text()).memory

    once, often = memory(2), memory(20)
    # A slice of the weights is read in each trip, not all of them.
    assert 5 < often / once < 15
    assert often < 20 * 8 * 4 * 128 * 128


# As a TPU's compiler writes it: a loop whose trips stand in its condition, memory on the chip
# (S(1)), a fusion that reads a slice, and collectives, one of them asynchronous.
HLO = """HloModule m
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}
%sliced (p0: f32[16,100], p1: s32[]) -> f32[100] {
  %p0 = f32[16,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %slice = f32[1,100]{1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,100}
  ROOT %out = f32[100]{0} bitcast(%slice)
}
%body (arg: (s32[], f32[16,100], f32[100])) -> (s32[], f32[16,100], f32[100]) {
  %arg = (s32[], f32[16,100]{1,0}, /*index=2*/f32[100]{0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %all = f32[16,100]{1,0} get-tuple-element(%arg), index=1
  %row = f32[100]{0:T(256)S(1)} fusion(%all, %i), kind=kLoop, calls=%sliced
  %reduced = f32[100]{0:T(256)S(1)} all-reduce(%row), replica_groups={}, to_apply=%sum
  ROOT %next = (s32[], f32[16,100]{1,0}, f32[100]{0}) tuple(%i, %all, %reduced)
}
%condition (arg: (s32[], f32[16,100], f32[100])) -> pred[] {
  %arg.1 = (s32[], f32[16,100]{1,0}, f32[100]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(16)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}
ENTRY %main (p: (s32[], f32[16,100], f32[100])) -> bf16[8,50] {
  %p = (s32[], f32[16,100]{1,0}, f32[100]{0}) parameter(0)
  %loop = (s32[], f32[16,100]{1,0}, f32[100]{0}) while(%p), condition=%condition, body=%body
  %part = bf16[50]{0} constant({...})
  %start = (bf16[50]{0}, bf16[8,50]{1,0}) all-gather-start(%part), dimensions={0}
  ROOT %gathered = bf16[8,50]{1,0} all-gather-done(%start)
}
"""


def test_the_text_of_a_tpu_program_is_read():
    found = traffic(HLO)
    assert found.collectives == [("all-reduce", 400, 16), ("all-gather", 800, 1)]
    assert (found.bytes_of("all-reduce"), found.bytes_of("all-gather")) == (6400, 800)
    assert found.calls == 17
    # Each trip reads its number and a row of the 16, and writes on the chip; the gathering reads
    # its part, and its output holds the part and the whole.
    assert found.memory == 16 * (4 + 400) + (100 + 100 + 800)


# A player that is due reduces gradients that lie on the chip; else a little is copied.
CONDITIONAL = """HloModule m
%wait (x: f32[10]) -> f32[10] {
  %x = f32[10]{0} parameter(0)
  ROOT %copy = f32[10]{0} copy(%x)
}
%due (y: f32[10]) -> f32[10] {
  %y = f32[10]{0} parameter(0)
  %grads = f32[1000]{0:T(256)S(1)} constant({...})
  %sum = f32[1000]{0:T(256)S(1)} all-reduce(%grads), replica_groups={}, to_apply=%add
  ROOT %z = f32[10]{0} bitcast(%y)
}
ENTRY %main (p: pred[], q: f32[10]) -> f32[10] {
  %p = pred[] parameter(0)
  %q = f32[10]{0} parameter(1)
  ROOT %r = f32[10]{0} conditional(%p, %q, %q), branch_computations={%wait, %due}
}
"""


def test_of_branches_the_one_that_moves_most_counts():
    assert traffic(CONDITIONAL).collectives == [("all-reduce", 4000, 1)]


@pytest.fixture(scope="module")
def recipe():
    return dataclasses.replace(load_recipe("gan_digits_paper"), batch_size=64)


def _parameter_bytes(recipe):
    spec = expected_spec(recipe.data, recipe.data_options)
    state = abstract_state(recipe, spec)
    players = [getattr(state, name, None) for name in ("generator", "discriminator", "model")]
    leaves = jax.tree.leaves([player.params for player in players if player])
    return 4 * sum(leaf.size for leaf in leaves)


@pytest.mark.slow
def test_devices_reduce_the_gradients_and_split_the_state_by_fsdp(recipe):
    plain = compile_step(recipe)
    split = compile_step(dataclasses.replace(recipe, parallel="fsdp"))
    size = _parameter_bytes(recipe)
    assert plain.devices == 8
    # On CPUs XLA reduces D's gradients of real and of generated images apart.
    assert size <= plain.collectives["all-reduce"] <= 1.5 * size
    # Parameters and two moments are three eighths of what each device had, beside the program.
    assert split.needed_gib < 0.75 * plain.needed_gib
    assert split.collectives["all-gather"] >= 0.9 * size
    assert plain.flops == split.flops
    assert plain.fits and plain.step_seconds is None
    text = to_text(recipe, plain)
    assert "8 devices, jit" in text
    assert "64 images a step, 8 a device" in text
    assert "all-reduce" in text


@pytest.mark.parametrize(
    "name",
    [
        "wgan_digits_paper",
        pytest.param("wgan_gp_digits", marks=pytest.mark.slow),
        pytest.param("biggan_digits", marks=pytest.mark.exhaustive),
    ],
)
def test_a_generators_own_step_is_divided_among_the_devices(name):
    """The noise of such a step is drawn in the program, and meets no image of the batch."""
    recipe = load_recipe(name)
    assert compile_step(recipe).collectives["all-reduce"] >= _parameter_bytes(recipe)


def test_samples_of_an_image_stay_on_its_device():
    """A bound of several samples reduces its gradients alone, and moves no samples or images."""
    recipe = dataclasses.replace(load_recipe("vae_mnist_iwae"), batch_size=64)
    collectives = compile_step(recipe).collectives
    assert set(collectives) == {"all-reduce"}
    size = _parameter_bytes(recipe)
    assert size <= collectives["all-reduce"] < 1.01 * size


PROGRAM = Program(
    where="v5e:4x4",
    devices=16,
    batch_size=1024,
    parallel="jit",
    seconds=1.0,
    needed_gib=40.0,
    capacity_gib=16.0,
    flops=0,
    memory_bytes=0,
    collectives={"all-reduce": 90_000_000},
    collective_calls=10,
)


def test_each_pass_takes_its_time():
    once = dataclasses.replace(PROGRAM, flops=10**15, memory_bytes=1)
    times = [
        roofline(dataclasses.replace(once, passes=passes), once.where).compute for passes in (1, 6)
    ]
    assert times == pytest.approx([1e15 / 16 / 197e12, 6e15 / 16 / 197e12])


def test_communication_takes_bytes_twice_over_all_links_and_hops():
    seconds = communication_seconds(PROGRAM, CHIPS["v5e"], [4, 4])
    assert seconds == pytest.approx(2 * 90e6 / (0.9e11 * 2) + 10 * 8e-6)
    assert communication_seconds(PROGRAM, CHIPS["v5e"], [1, 1]) == 0


def test_what_does_not_fit_is_told_what_would(recipe):
    lines = advice(recipe, PROGRAM)
    assert any(line.startswith("--parallel fsdp") and "not enough" in line for line in lines)
    # 64 images a device take 40 GiB: 25 take 16.
    assert "--batch-size 400: 25 images a device, not 64" in lines
    assert any(line.startswith("--gradient-accumulation-steps 4") for line in lines)
    assert "does not fit" in to_text(recipe, PROGRAM)
    assert advice(recipe, dataclasses.replace(PROGRAM, needed_gib=10.0)) == []


@pytest.mark.parametrize("topology", ["v5e", "v9:2x2", "v5e:2x", "2x2", "v5e:2 x 2"])
def test_an_unknown_topology_is_refused(recipe, topology):
    with pytest.raises(UsageError, match=r"should be CHIP:AxB .* of v4, v5e"):
        compile_step(recipe, topology)


def test_without_the_tpu_compiler_its_installation_is_told(recipe, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -r requirements-tpu\.txt"):
        compile_step(recipe, "v5e:2x2")


def test_the_environment_is_set_for_a_time(monkeypatch):
    monkeypatch.setenv("GENJAX_ONE", "mine")
    before = dict(os.environ)
    with pytest.raises(ValueError, match="sic"), environment(GENJAX_ONE="1", GENJAX_TWO="2"):
        assert dict(os.environ) == before | {"GENJAX_ONE": "1", "GENJAX_TWO": "2"}
        raise ValueError("sic")
    assert dict(os.environ) == before


def test_pmap_has_no_program_to_show(recipe):
    with pytest.raises(UsageError, match="wanted jit or fsdp"):
        compile_step(dataclasses.replace(recipe, parallel="pmap"))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_slice_that_is_not_there():
    recipe = load_recipe("wgan_digits_paper")  # whose generator is due at some steps only
    program = compile_step(recipe, "v5e:2x2")
    assert program.fits and program.devices == 4
    assert 0 < program.step_seconds < 1e-3
    assert program.collectives["all-reduce"] >= _parameter_bytes(recipe)
