"""The programs that training compiles: the same for each seed, each start, and each call."""

import dataclasses
import shutil

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import genjax
from genjax import DataOptions, Recipe
from genjax.data import batches
from genjax.models.gan import GanConfig
from genjax.models.vae import VaeConfig
from genjax.trainer.loop import call_length
from tests import runs

GAN = Recipe(
    family="gan", model=GanConfig(), steps=20, batch_size=16, log_interval=5, save_interval=10
)
VAE = dataclasses.replace(
    GAN, family="vae", model=VaeConfig(hidden_sizes=(8,), binarization="none"), seed=1
)
STREAMED = dataclasses.replace(
    GAN, steps=25, log_interval=10, data_options=DataOptions(resident_gib=0)
)
CALL_BYTES = 7 * 16 * 64  # images of 8x8 for 7 steps of 16


@pytest.fixture
def programs(tmp_path):
    """Return a function that gives the names of all programs that were compiled in this test."""
    folder = tmp_path / "programs"
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(folder), 0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()
    yield lambda: {path.name for path in folder.glob("*-cache")}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(GAN, id="gan"),
        pytest.param(STREAMED, id="streamed", marks=pytest.mark.slow),
        pytest.param(VAE, id="vae", marks=pytest.mark.slow),
    ],
)
def test_another_seed_and_a_resume_compile_nothing(tmp_path, programs, recipe, monkeypatch):
    monkeypatch.setattr(batches, "STREAM_BYTES", CALL_BYTES)
    genjax.train(recipe, tmp_path / "one")
    compiled = programs()
    assert any(name.startswith("jit_run-") for name in compiled)
    jax.clear_caches()
    genjax.train(dataclasses.replace(recipe, seed=2**32 - 1), tmp_path / "other")
    assert programs() == compiled
    assert runs.records(tmp_path / "one") != runs.records(tmp_path / "other")
    jax.clear_caches()
    genjax.resume(tmp_path / "one", steps=40)
    shutil.rmtree(max((tmp_path / "other/checkpoints").iterdir()))
    genjax.resume(tmp_path / "other")
    assert programs() == compiled


def test_streamed_calls_of_a_run_are_one_program(tmp_path, programs, monkeypatch):
    """A call may have up to 7 steps: 10 for a record, and 25 in all, are calls of 5."""
    monkeypatch.setattr(batches, "STREAM_BYTES", CALL_BYTES)
    genjax.train(STREAMED, tmp_path / "run")
    assert len([name for name in programs() if name.startswith("jit_run-")]) == 1


@pytest.mark.parametrize(
    ("log_interval", "steps", "most", "length"),
    [
        (100, 1000, 2**31, 100),
        (100, 1000, 42, 25),
        (100, 390_625, 21, 5),
        (100, 781_250, 2, 2),
        (97, 970, 42, 1),
        (100_000, 10**9, 3, 2),
    ],
)
def test_the_length_of_calls(log_interval, steps, most, length):
    recipe = dataclasses.replace(
        GAN, log_interval=log_interval, save_interval=log_interval, steps=steps
    )
    assert call_length(recipe, most) == length
