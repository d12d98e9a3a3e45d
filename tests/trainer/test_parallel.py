"""Tests of training, saving and resuming by `fsdp` and `pmap`, over eight devices."""

import dataclasses
import functools

import chex
import numpy as np
import pytest

import genjax
from genjax import Recipe
from genjax.models import biggan, dcgan, gan
from tests import runs

# Each has arrays that are large enough for `fsdp` to split; the DCGAN has batch norm and a moving
# average as well, BigGAN also spectral norm.
GAN_PLAYER = gan.PlayerConfig(hidden_sizes=(64,))
DCGAN_PLAYER = dcgan.PlayerConfig(features=16)
BIGGAN_PLAYER = biggan.PlayerConfig(features=16, learning_rate=2e-4, beta1=0.0, epsilon=1e-3)
MODELS = {
    "gan": gan.GanConfig(generator=GAN_PLAYER, discriminator=GAN_PLAYER),
    "dcgan": dcgan.DcganConfig(
        latent_size=16, ema_decay=0.9, generator=DCGAN_PLAYER, discriminator=DCGAN_PLAYER
    ),
    "biggan": biggan.BigganConfig(
        latent_size=12,
        shared_size=8,
        ema_decay=0.9,
        generator=BIGGAN_PLAYER,
        discriminator=BIGGAN_PLAYER,
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, eight_devices):
    """Return a function that trains a family for four steps without interruption."""

    @functools.cache
    def train(name, parallel):
        run = tmp_path_factory.mktemp("runs") / "run"
        with eight_devices():
            genjax.train(_recipe(name, parallel), run)
        return run

    return train


def _recipe(name, parallel):
    return Recipe(
        family=name,
        model=MODELS[name],
        steps=4,
        batch_size=16,
        log_interval=1,
        save_interval=4,
        parallel=parallel,
    )


@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        pytest.param(name, parallel, marks=[*marks, pytest.mark.xdist_group(f"parallel_{name}")])
        for name, marks in (
            ("gan", ()),
            ("dcgan", [pytest.mark.slow]),
            ("biggan", [pytest.mark.exhaustive]),
        )
        for parallel in ("fsdp", "pmap")
    ],
)
def test_a_run_over_many_devices_resumes_and_agrees_with_jit(
    name, parallel, whole, tmp_path, eight_devices
):
    uninterrupted, records = runs.results(whole(name, parallel))
    with eight_devices():
        genjax.train(dataclasses.replace(_recipe(name, parallel), steps=3), tmp_path / "run")
        assert genjax.resume(tmp_path / "run", steps=4).step == 4
    resumed, resumed_records = runs.results(tmp_path / "run")
    chex.assert_trees_all_equal(uninterrupted, resumed)
    # The run that ended at step 3 was saved, and so evaluated, there; the whole one was not.
    judged = [record.keys() - records[2].keys() for record in resumed_records]
    assert "energy_distance" in judged[2]
    for metric in judged[2]:
        del resumed_records[2][metric]
    assert records == resumed_records
    np.testing.assert_array_equal(
        genjax.sample(tmp_path / "run", n=8, checkpoint=4),
        genjax.sample(whole(name, parallel), n=8, checkpoint=4),
    )
    # float32: sums over the batch are taken in another order. In four steps that does not grow.
    by_jit, jit_records = runs.results(whole(name, "jit"))
    chex.assert_trees_all_close(by_jit, resumed, rtol=1e-5, atol=2e-6)
    chex.assert_trees_all_close(jit_records, records, rtol=1e-5, atol=2e-6)
