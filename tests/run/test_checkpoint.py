import errno
import json
import logging
import resource
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.run.checkpoint import DIGESTS, Checkpoints, SaveError, find_damage, write_atomically
from genjax.types import UsageError


def _state(step):
    return {"step": jnp.asarray(step), "params": jnp.arange(5000.0) + step}


def _open(folder, keep=2, writable=True):
    return Checkpoints(folder / "checkpoints", keep, "score", writable)


def _save(checkpoints, scores):
    for step, score in scores.items():
        metrics = None if score is None else {"score": score}
        checkpoints.save(step, _state(step), metrics)


def _restore(checkpoints, step):
    return checkpoints.restore(step, jax.eval_shape(lambda: _state(0)))


def _files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != DIGESTS)


def test_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 5.0, 2: 1.0, 3: 3.0, 4: None, 5: 2.0})
    assert checkpoints.steps == [2, 4, 5]
    assert (checkpoints.best, checkpoints.latest) == (2, 5)
    checkpoints.close()
    again = _open(tmp_path, writable=False)
    assert (again.steps, again.best, again.latest) == ([2, 4, 5], 2, 5)
    chex.assert_trees_all_equal(_restore(again, 2), _state(2))


def test_without_a_score_the_latest_is_the_best(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: None, 2: None})
    assert checkpoints.best == 2


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {"flipped": _flip, "truncated": _truncate, "missing": lambda path: path.unlink()}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_any_file_is_found_and_named(tmp_path, kind, caplog):
    checkpoints = _open(tmp_path, keep=3)
    _save(checkpoints, {1: 1.0, 2: 2.0})
    checkpoints.close()
    folder = tmp_path / "checkpoints/00000002"
    assert find_damage(folder) is None
    files = [path for path in _files(folder) if path.stat().st_size]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        DAMAGE[kind](path)
        assert path.relative_to(folder).as_posix() in find_damage(folder)
        path.write_bytes(content)
    assert find_damage(folder) is None

    DAMAGE[kind](max(files, key=lambda path: path.stat().st_size))
    with caplog.at_level(logging.WARNING, logger="genjax"):
        again = _open(tmp_path, keep=3)
    assert "00000002 cannot be used" in caplog.text
    assert (again.latest, again.steps) == (1, [1])
    chex.assert_trees_all_equal(_restore(again, 1), _state(1))
    # The damaged checkpoint is put aside, and its step can be saved anew.
    assert (tmp_path / "damaged/00000002-0").is_dir()
    _save(again, {2: 2.0})
    assert again.steps == [1, 2]


def test_a_flip_that_orbax_would_restore_in_silence(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    largest = max(_files(tmp_path / "checkpoints/00000001"), key=lambda p: p.stat().st_size)
    _flip(largest)
    restored = _restore(checkpoints, 1)  # no error: this is why there are digests
    assert not np.array_equal(restored["params"], _state(1)["params"])
    assert largest.name in find_damage(tmp_path / "checkpoints/00000001")


def test_a_save_cut_short_is_not_trusted(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0, 2: 1.0})
    checkpoints.close()
    (tmp_path / "checkpoints/00000002" / DIGESTS).unlink()
    assert _open(tmp_path).latest == 1


def test_damaged_digests_are_damage(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    path = tmp_path / "checkpoints/00000001" / DIGESTS
    path.write_text(path.read_text()[:-5])
    assert DIGESTS in find_damage(path.parent)
    path.write_text(json.dumps({}))
    assert "is not part of it" in find_damage(path.parent)


def test_when_all_are_damaged_training_does_not_start_over(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    checkpoints.close()
    _flip(_files(tmp_path / "checkpoints/00000001")[-1])
    for _ in range(2):
        with pytest.raises(UsageError, match="no good checkpoint"):
            _open(tmp_path)


def test_reading_moves_nothing(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0, 2: 1.0})
    checkpoints.close()
    _truncate(_files(tmp_path / "checkpoints/00000002")[0])
    assert _open(tmp_path, writable=False).steps == [1]
    assert (tmp_path / "checkpoints/00000002").is_dir()
    with pytest.raises(UsageError, match="no good checkpoint"):
        _open(tmp_path / "elsewhere", writable=False)


# TensorStore reports the writes still in flight to an event loop that Orbax has closed by then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_gives_an_error_and_no_trusted_checkpoint(tmp_path, monkeypatch):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    # A limit on the size of files fails a write as a full disk does, inside Orbax's own writers.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(SaveError, match=r"could not save step 2 .* last good one is step 1"):
            _save(checkpoints, {2: 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    again = _open(tmp_path)
    assert again.steps == [1]
    chex.assert_trees_all_equal(_restore(again, 1), _state(1))


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_of_another_structure_is_refused(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    for other in ({"step": jnp.asarray(0)}, {**_state(0), "more": jnp.zeros(2)}):
        with pytest.raises(UsageError, match=r"checkpoint 1 in .* is of another version of genjax"):
            checkpoints.restore(1, jax.eval_shape(lambda other=other: other))
    checkpoints.close()
