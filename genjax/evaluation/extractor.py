"""The choice of a feature net: Inception, or a classifier of the data set.

The classifier is trained when it is first asked for, and kept in the cache folder.
"""

import atexit
import base64
import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np

from genjax.data.digest import digest_of
from genjax.data.processes import run_on_first
from genjax.data.source import DataOptions, Source
from genjax.data.sources import STACKED, open_source
from genjax.interop.files import read_arrays
from genjax.interop.inception import FILE as INCEPTION_FILE
from genjax.interop.inception import URL as INCEPTION_URL
from genjax.interop.inception import load as load_inception
from genjax.metrics import classifier
from genjax.metrics.classifier import Extractor, train_classifier
from genjax.metrics.features import FeatureNet, for_each_channel
from genjax.metrics.inception import inception
from genjax.run.checkpoint import write_atomically
from genjax.run.options import check_choice
from genjax.types import UsageError

log = logging.getLogger("genjax")

ExtractorKind = Literal["classifier", "inception"]
# A classifier that is right this much more often than chance has learned something.
NO_BETTER = 0.02


def cache_folder() -> Path:
    """Return the folder for files that can be made again.

    It is `$XDG_CACHE_HOME/genjax` or, if the variable is empty, `~/.cache/genjax`; if that cannot
    be written, a new folder that is deleted when this process ends.
    """
    return _writable(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


@functools.cache
def _writable(home: str) -> Path:
    try:
        folder = Path(home).expanduser() / "genjax"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return folder
    except (OSError, RuntimeError) as error:  # no permission, and no home at all
        fallback = tempfile.mkdtemp(prefix="genjax-")
        atexit.register(shutil.rmtree, fallback, ignore_errors=True)
        log.warning("no cache can be kept in %s (%s): it is made anew each time", home, error)
        return Path(fallback)


def create_extractor(
    kind: ExtractorKind, data: str, options: DataOptions, weights: str | Path | None = None
) -> tuple[FeatureNet, dict[str, Any]]:
    """Create a feature net for images of a data set, and its identity for a protocol.

    Args:
        kind: `classifier`, of the data set itself, or `inception`, by which FID is defined.
        data: The data set, as `open_source` takes it.
        options: How the data are read, without a border.
        weights: File with Inception's weights, for `read_arrays`. None: the published one, in the
            cache folder.

    Returns:
        The feature net, and its identity: `kind`, `sha256` of its weights, and its accuracy or
        resizer.

    Raises:
        UsageError: The data do not exist, have no classes for a classifier, or there are no such
            weights.
    """
    path = weights_path(kind, weights)
    if path is not None:
        return _inception(path)
    kind_of_source, _, name = data.partition(":")
    if kind_of_source == STACKED:
        net, identity = _classifier(name, options)
        return for_each_channel(net), identity | {"kind": "classifier of each channel"}
    return _classifier(data, options)


def weights_path(kind: ExtractorKind | None, weights: str | Path | None) -> Path | None:
    """Return the path of Inception's weights; None if `kind` is not `inception`.

    Raises:
        UsageError: There is no such kind, the file does not exist, or `weights` are given but
            `kind` is not `inception`.
    """
    check_choice("extractor", kind, ExtractorKind)
    if kind != "inception":
        if weights is not None:
            raise UsageError(f"weights {weights}: only of --extractor inception can they be given")
        return None
    path = cache_folder() / INCEPTION_FILE if weights is None else Path(weights)
    if not path.is_file():
        raise UsageError(
            f"no Inception weights at {path}: download {INCEPTION_URL} to there, or say with "
            "--weights where they are"
        )
    return path


def _inception(path: Path) -> tuple[FeatureNet, dict[str, Any]]:
    identity = {
        "kind": "inception",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "resizer": "bilinear, as TensorFlow 1",
    }
    return inception(load_inception(read_arrays(path))), identity


def _classifier(data: str, options: DataOptions) -> tuple[FeatureNet, dict[str, Any]]:
    """Load or train the classifier of a data set; return it and its identity.

    It is trained on `split`; its accuracy is measured on `test_split`. The first process of a run
    does so, and tells the others.
    """
    source = open_source(data, options)
    text, accuracy = run_on_first(lambda: _trained(data, options, source))
    variables = base64.b64decode(text)
    labels = source.labels
    chance = 1 / source.spec.classes if labels is None else np.bincount(labels).max() / len(labels)
    if accuracy <= chance + NO_BETTER:
        log.warning(
            "the classifier of %s is right on %.0f%% of the images, no more than chance: distances "
            "in its features say little; wanted classes that can be seen, or --extractor inception",
            *(data, 100 * accuracy),
        )
    identity = {
        "kind": "classifier",
        "sha256": hashlib.sha256(variables).hexdigest()[:16],
        "accuracy": accuracy,
        "accuracy_of": options.for_test.split,
    }
    return Extractor(source.spec, variables), identity


def _trained(data: str, options: DataOptions, source: Source) -> tuple[str, float]:
    """Return the classifier's variables, in base64, and its accuracy."""
    settings = {
        "data": data,
        "options": dataclasses.asdict(options),
        "content": digest_of(source.contents(options.digest == "full")),
        "spec": dataclasses.asdict(source.spec),
        "network": [classifier.WIDTHS, classifier.STRIDES, classifier.FEATURES, classifier.STEPS],
        "longest": classifier.LONGEST,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "classifiers" / f"{key}.msgpack"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of several processes that want it the first trains it, and the others wait.
    with filelock.FileLock(path.with_suffix(".lock")):
        kept = _read_kept(path)
        if kept is None:
            log.info("training a classifier of %s, the feature net of its metrics", data)
            variables = train_classifier(source, options, classifier.STEPS)
            trained = Extractor(source.spec, variables)
            accuracy = trained.accuracy(open_source(data, options.for_test))
            digest = hashlib.sha256(variables).hexdigest()
            about = settings | {"accuracy": accuracy, "sha256": digest}
            write_atomically(path, variables)
            write_atomically(path.with_suffix(".json"), json.dumps(about).encode())
            kept = variables, accuracy
    variables, accuracy = kept
    return base64.b64encode(variables).decode(), accuracy


def _read_kept(path: Path) -> tuple[bytes, float] | None:
    """Return a classifier's variables and accuracy; None if they are not there or damaged."""
    if not path.is_file():
        return None
    try:
        variables = path.read_bytes()
        about = json.loads(path.with_suffix(".json").read_bytes())
        if about["sha256"] == hashlib.sha256(variables).hexdigest():
            return variables, float(about["accuracy"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    log.warning("%s is damaged: it is made anew", path)
    return None
