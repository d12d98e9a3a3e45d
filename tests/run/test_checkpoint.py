import errno
import hashlib
import json
import logging
import math
import os
import resource
import shutil
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from genjax.run.checkpoint import (
    DIGESTS,
    LABEL,
    NEEDED,
    Checkpoints,
    SaveError,
    find_damage,
    write_atomically,
)
from genjax.types import UsageError


def _state(step):
    return {"step": jnp.asarray(step), "params": jnp.arange(5000.0) + step}


RUN = "0123456789abcdef"


def _open(folder, keep=2, writable=True, run=RUN):
    return Checkpoints(folder / "checkpoints", run, keep, "score", writable)


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
    of_other_data = Checkpoints(tmp_path / "checkpoints", RUN, 2, "score", False, since=2)
    assert of_other_data.best == 5


def test_without_a_score_the_latest_is_the_best(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: None, 2: None})
    assert checkpoints.best == 2


@pytest.mark.parametrize(
    "name", ["exp[1]", "a*", "what?", "a\\b", os.fsdecode(b"\xff"), "gs:"], ids=ascii
)
def test_a_path_that_orbax_would_misread_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(UsageError, match="no checkpoints can be kept where a path has"):
        _open(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "{1}", "100%", "größe", "a:b", "a|b", "-n", "~", "'"])
def test_any_other_name_is_fine(tmp_path, name):
    checkpoints = _open(tmp_path / name)
    _save(checkpoints, {1: 1.0})
    chex.assert_trees_all_equal(_restore(_open(tmp_path / name, writable=False), 1), _state(1))


def test_a_save_that_leaves_out_what_a_restore_needs_is_an_error(tmp_path, monkeypatch):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    save = ocp.Checkpointer.save

    def forgetful(self, path, **options):
        save(self, path, **options)
        (path / "manifest.ocdbt").unlink()

    monkeypatch.setattr(ocp.Checkpointer, "save", forgetful)
    with pytest.raises(SaveError, match=r"manifest\.ocdbt was not written; .* good one is step 1"):
        _save(checkpoints, {2: 1.0})
    assert checkpoints.steps == _open(tmp_path).steps == [1]


def test_the_loss_of_another_process_is_not_told_as_a_failed_save(tmp_path, monkeypatch):
    checkpoints = _open(tmp_path)

    def lost(name):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        raise jax.errors.JaxRuntimeError("Gloo AllGather failed: Connection reset by peer")

    monkeypatch.setattr("genjax.run.checkpoint.barrier", lost)
    with pytest.raises(jax.errors.JaxRuntimeError, match="reset by peer"):
        _save(checkpoints, {1: 1.0})
    monkeypatch.undo()
    monkeypatch.setattr("genjax.run.checkpoint.barrier", lambda name: 1 / 0)
    with pytest.raises(SaveError, match="division by zero"):
        _save(checkpoints, {2: 1.0})


def test_digests_cover_what_must_be_there(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    folder = tmp_path / "checkpoints/00000001"
    digests = json.loads((folder / DIGESTS).read_text())
    for name in NEEDED:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        without = {path: digest for path, digest in digests.items() if path != name}
        (folder / DIGESTS).write_text(json.dumps(without))
        assert find_damage(folder, RUN) == f"{name} is missing"
        (folder / name).write_bytes(content)
    (folder / DIGESTS).write_text(json.dumps(digests))
    assert find_damage(folder, RUN) is None


def _swap(folder):
    (folder / "00000002").rename(folder / "x")
    (folder / "00000001").rename(folder / "00000002")
    (folder / "x").rename(folder / "00000001")


NAMES = {
    "swapped": (_swap, [], "00000001 cannot be used: it is of step 2"),
    "copied": (
        lambda folder: shutil.copytree(folder / "00000002", folder / "00000005"),
        [1, 2],
        "00000005 cannot be used: it is of step 2",
    ),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("writable", [False, True])
def test_a_checkpoint_under_another_name_is_named_and_not_used(tmp_path, kind, writable, caplog):
    change, steps, message = NAMES[kind]
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0, 2: 2.0})
    change(tmp_path / "checkpoints")
    if steps:
        assert _open(tmp_path, writable=writable).steps == steps
    else:
        with pytest.raises(UsageError, match="no good checkpoint"):
            _open(tmp_path, writable=writable)
    assert message in caplog.text


def test_a_checkpoint_of_another_run_is_named_and_not_used(tmp_path, caplog):
    _save(_open(tmp_path / "one"), {1: 1.0, 2: 2.0})
    _save(_open(tmp_path / "two", run="f" * 16), {2: 2.0, 3: 3.0})
    for step in (2, 3):
        name = f"checkpoints/{step:08d}"
        shutil.rmtree(tmp_path / "one" / name, ignore_errors=True)
        shutil.copytree(tmp_path / "two" / name, tmp_path / "one" / name)
    assert _open(tmp_path / "one", writable=False).steps == [1]
    assert "00000003 cannot be used: it is of another run, 'ffffffffffffffff'" in caplog.text
    # What was put aside does not stand in the way of a save of the same step.
    again = _open(tmp_path / "one")
    _save(again, {2: 2.0})
    assert again.steps == [1, 2]


def test_folders_that_are_no_checkpoints_are_named_and_left(tmp_path, caplog):
    _save(_open(tmp_path), {1000: 1.0})
    folder, names = tmp_path / "checkpoints", ["²", "٣", "1000", "0000001000", "notes", "-0000001"]
    for name in names:
        shutil.copytree(folder / "00001000", folder / name)
    (folder / "00000007").write_text("a file")
    for writable in (False, True):
        caplog.clear()
        checkpoints = _open(tmp_path, writable=writable)
        assert checkpoints.steps == [1000]
        assert all(f"{folder / name} is not a checkpoint: ignored" in caplog.text for name in names)
    chex.assert_trees_all_equal(_restore(checkpoints, 1000), _state(1000))
    assert {"²", "٣", "1000"} < {path.name for path in folder.iterdir()}


def test_what_was_being_written_or_deleted_is_cleaned_up(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0, 2: 2.0})
    folder = tmp_path / "checkpoints"
    names = {"00000003.unfinished", "00000003.unfinished.orbax-checkpoint-tmp"}
    for name in names:
        shutil.copytree(folder / "00000002", folder / name)
    _open(tmp_path, writable=False)
    assert names < {path.name for path in folder.iterdir()}
    _open(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"00000001", "00000002"}
    assert not (tmp_path / "damaged").exists()


NO_LABEL = (b"[]", b"null", b"", b"\xff\xfe", b"{}", b'{"run":"","step":2,"metrics":{"score":"x"}}')


@pytest.mark.parametrize("content", NO_LABEL)
@pytest.mark.parametrize("name", [LABEL, DIGESTS])
def test_a_label_or_a_list_that_is_none_is_damage(tmp_path, name, content):
    """Also where the digests fit, as in what someone else has made."""
    _save(_open(tmp_path), {1: 1.0, 2: 2.0})
    folder = tmp_path / "checkpoints/00000002"
    (folder / name).write_bytes(content)
    if name == LABEL:
        assert "label.json is damaged" in find_damage(folder, RUN)
        digests = json.loads((folder / DIGESTS).read_text())
        digests[LABEL] = hashlib.sha256(content).hexdigest()
        (folder / DIGESTS).write_text(json.dumps(digests))
        assert find_damage(folder, RUN) == "label.json is not one"
    assert _open(tmp_path, writable=False).best == 1


def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path):
    checkpoints = _open(tmp_path, keep=3)
    _save(checkpoints, {1: math.nan, 2: 5.0, 3: -math.inf})
    assert (_open(tmp_path, keep=3).best, checkpoints.best) == (2, 2)


def test_a_checkpoint_put_aside_takes_a_free_name(tmp_path):
    checkpoints = _open(tmp_path)
    for _ in range(3):
        _save(checkpoints, {1: 1.0, 2: 2.0})
        _truncate(_files(tmp_path / "checkpoints/00000002")[0])
        checkpoints = _open(tmp_path)
        shutil.rmtree(tmp_path / "checkpoints/00000001")
        shutil.rmtree(tmp_path / "damaged/00000002-0", ignore_errors=True)
        (tmp_path / "damaged/00000002-1").mkdir(exist_ok=True)
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == {"00000002-1"}


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
    assert find_damage(folder, RUN) is None
    files = [path for path in _files(folder) if path.stat().st_size]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        DAMAGE[kind](path)
        assert path.relative_to(folder).as_posix() in find_damage(folder, RUN)
        path.write_bytes(content)
    assert find_damage(folder, RUN) is None

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
    assert largest.name in find_damage(tmp_path / "checkpoints/00000001", RUN)


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
    assert DIGESTS in find_damage(path.parent, RUN)
    path.write_text(json.dumps({}))
    assert "is not part of it" in find_damage(path.parent, RUN)


def test_when_all_are_damaged_training_does_not_start_over(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    checkpoints.close()
    _flip(_files(tmp_path / "checkpoints/00000001")[-1])
    for _ in range(2):
        with pytest.raises(UsageError, match="no good checkpoint"):
            _open(tmp_path)


def test_reading_moves_nothing_and_verifies_what_is_wanted(tmp_path, caplog):
    checkpoints = _open(tmp_path, keep=3)
    _save(checkpoints, {1: 2.0, 2: 1.0, 3: 3.0})
    checkpoints.close()
    for step in (2, 3):
        _truncate(_files(tmp_path / f"checkpoints/0000000{step}")[0])
    reader = _open(tmp_path, writable=False)
    with pytest.raises(
        UsageError, match=r"has no good checkpoint 2: it has 1, 3; best is 1, latest 3"
    ):
        reader.find(2)
    assert reader.find("best") == reader.find("latest") == reader.find(1) == 1
    assert caplog.text.count("cannot be used") == 2
    assert (tmp_path / "checkpoints/00000002").is_dir()
    _truncate(_files(tmp_path / "checkpoints/00000001")[0])
    with pytest.raises(UsageError, match=r"no good checkpoint$"):
        reader.find("best")
    with pytest.raises(UsageError, match=r"no good checkpoint$"):
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


def test_unfinished_saves_that_vanish_or_stay_do_not_stop_a_run(tmp_path, monkeypatch, caplog):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    left = tmp_path / "checkpoints" / "00000002.unfinished"
    (left / "of_orbax").mkdir(parents=True)
    (left / "of_orbax" / "__lock").touch()
    unlink = os.unlink

    def another_was_first(path, **options):
        unlink(path, **options)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    with monkeypatch.context() as patched:
        patched.setattr("os.unlink", another_was_first)
        assert _open(tmp_path).steps == [1]
    assert not left.exists() and not caplog.messages

    left.mkdir()

    def refused(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", refused)
        assert _open(tmp_path).steps == [1]
    assert "00000002.unfinished cannot be deleted" in caplog.text


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_of_another_structure_is_refused(tmp_path):
    checkpoints = _open(tmp_path)
    _save(checkpoints, {1: 1.0})
    for other in ({"step": jnp.asarray(0)}, {**_state(0), "more": jnp.zeros(2)}):
        with pytest.raises(UsageError, match=r"checkpoint 1 in .* is of another version of genjax"):
            checkpoints.restore(1, jax.eval_shape(lambda other=other: other))
    checkpoints.close()
