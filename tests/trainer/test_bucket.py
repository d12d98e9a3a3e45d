"""Tests of a run and its data in a bucket, which an emulator on this machine provides."""

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

BUCKET = "gs://genjax-test"
PATIENCE = 400


@pytest.fixture
def bucket():
    """Start the emulator, and give the environment in which commands use it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = Path(__file__).parents[1] / "bucket.py"
    with subprocess.Popen(
        [sys.executable, server, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/storage/v1/b?project=p").close()
                break
            except OSError:
                time.sleep(0.1)
        yield os.environ | {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "GOOGLE_CLOUD_PROJECT": "p",
        }
        process.terminate()


def _run(environment, *arguments, data=None):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        input=data,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


# Feature nets are trained for a few steps only, as in `tests/conftest.py`.
COMMAND = (
    "from genjax import cli; from genjax.metrics import classifier; "
    "classifier.STEPS = 100; cli.main()"
)


def _genjax(environment, *arguments):
    return _run(environment, "-c", COMMAND, *arguments).decode()


OBJECT = f"import sys; from etils import epath; p = epath.Path('{BUCKET}') / sys.argv[1]"


def _read(environment, name):
    return _run(environment, "-c", f"{OBJECT}; sys.stdout.buffer.write(p.read_bytes())", name)


def _write(environment, name, data):
    code = f"{OBJECT}; p.write_bytes(sys.stdin.buffer.read())"
    _run(environment, "-c", code, name, data=data)


@pytest.mark.timeout(1800)
def test_a_run_in_a_bucket_is_trained_resumed_sampled_and_evaluated(bucket, tmp_path):
    run = f"{BUCKET}/runs/a"
    options = ("--steps", 20, "--log-interval", 10, "--save-interval", 20, "--batch-size", 32)
    out = _genjax(bucket, "train", "gan_digits", "--run", run, *options)
    assert f"samples  {run}/samples/step_00000020.png" in out
    _genjax(bucket, "resume", run, "--steps", 40)
    records = [json.loads(line) for line in _read(bucket, "runs/a/metrics.jsonl").splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30, 40]
    log = _read(bucket, "runs/a/log.txt").decode()
    assert f"training in {run} from step 0" in log
    assert f"training in {run} from step 20" in log
    Image.open(io.BytesIO(_read(bucket, "runs/a/curves.png"))).verify()

    samples = tmp_path / "samples.npy"
    _genjax(bucket, "sample", run, "-n", 4, "-o", samples)
    assert np.load(samples).shape == (4, 16, 16, 1)
    for _ in range(2):
        _genjax(bucket, "evaluate", run, "-n", 200)
    assert len(_read(bucket, "runs/a/evaluations.jsonl").splitlines()) == 2


def test_images_in_a_bucket_are_data(bucket, tmp_path):
    for i, name in enumerate(["a/0.png", "a/1.png", "b/2.png"]):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8), 80 * i, np.uint8)).save(buffer, "png")
        _write(bucket, f"images/{name}", buffer.getvalue())
    said = _genjax(bucket, "inspect", f"folder:{BUCKET}/images", "-o", tmp_path / "grid.png")
    assert "images    3, and 0 broken" in said
    assert "8 x 8 (3)" in said
    assert "a (2), b (1)" in said
