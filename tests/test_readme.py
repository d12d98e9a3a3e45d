"""The README's Python, run from the top in one namespace, with fewer steps."""

import re
from pathlib import Path

import pytest

import genjax

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of an open file
def test_its_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    genjax.export("trained:dcgan_mnist", "dcgan.safetensors")
    genjax.export("trained:gan_digits", "model.stablehlo")
    blocks = re.findall("```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) > 8
    names = {}
    for block in blocks:
        short = block.replace("steps=2000)", "steps=200, log_interval=50, save_interval=100)")
        short = short.replace("steps=200, save", "steps=4, log_interval=2, save")
        short = short.replace(
            'save_interval=100), "runs/photos"', 'save_interval=2), "runs/photos"'
        )
        exec(compile(short.replace(">= 1000", ">= 150"), str(README), "exec"), names)
    assert names["images"].shape == (64, 16, 16, 1)
    assert names["record"].step == 150 and len(names["losses"]) == 3
    assert names["mine"].step == 4 and names["drawn"].shape == (4, 16, 16, 3)
    assert names["x"].shape == (8, 4, 4, 1)
    assert (tmp_path / "runs/watched/checkpoints/00000150").is_dir()
