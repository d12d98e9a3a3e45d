"""Tests of Inception-v3 against torch-fidelity, with weights from a formula.

`goldens/inception.npz` holds pool3 features and logits without bias of torch-fidelity 0.4, whose
network reproduces TensorFlow's 2015 graph, for the weights and images below.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genjax.data.source import DataOptions
from genjax.evaluation.extractor import create_extractor
from genjax.interop import inception as interop
from genjax.types import UsageError

GOLDEN = Path(__file__).parents[1] / "goldens/inception.npz"


def _weight(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("running_var", "bn.weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith(("bias", "running_mean")):
        return rng.normal(0, 0.1, shape).astype(np.float32)
    return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture(scope="module")
def weights():
    shapes = interop.entries() | {"fc.bias": (1008,), "Conv2d_1a_3x3.bn.num_batches_tracked": ()}
    return {name: np.asarray(_weight(name, shape)) for name, shape in shapes.items()}


@pytest.mark.device
def test_features_and_logits_are_the_references(weights, tmp_path):
    """Weights come from a file, and images of 40x56 pixels are resized."""
    y, x, c = np.mgrid[:40, :56, :3]
    waves = [np.sin(x * (0.1 + 0.2 * i) + y * 0.17 + c) for i in range(2)]
    images = np.round((np.stack(waves) + 1) * 127.5).astype(np.uint8)

    save_file(weights, tmp_path / "inception.safetensors")
    net, identity = create_extractor(
        "inception", "digits", DataOptions(), tmp_path / "inception.safetensors"
    )
    assert identity["kind"] == "inception" and len(identity["sha256"]) == 16
    golden = np.load(GOLDEN)
    for name, found in zip(("features", "logits"), net(images), strict=True):
        largest = np.abs(golden[name]).max()
        np.testing.assert_allclose(found, golden[name], rtol=0, atol=3e-6 * largest)


def test_weights_that_do_not_fit_are_listed(weights):
    arrays = {**weights, "extra": np.zeros(1), "fc.weight": np.zeros((1000, 2048))}
    del arrays["Mixed_7c.branch_pool.bn.bias"]
    with pytest.raises(UsageError) as caught:
        interop.load(arrays)
    for part in (
        "1 missing: Mixed_7c.branch_pool.bn.bias (192,)",
        "1 unknown: extra",
        "1 misshapen: fc.weight (1000, 2048), wanted (1008, 2048)",
    ):
        assert part in str(caught.value)


def test_without_weights_the_error_says_where_they_are_published():
    with pytest.raises(UsageError, match=rf"genjax/{interop.FILE}: download https://github.com/"):
        create_extractor("inception", "digits", DataOptions())
    with pytest.raises(UsageError, match=r"no Inception weights at none\.pth"):
        create_extractor("inception", "digits", DataOptions(), "none.pth")
    with pytest.raises(UsageError, match="weights x"):
        create_extractor("classifier", "digits", DataOptions(), "x")
