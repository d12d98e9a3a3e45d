"""The feature net of a data set: trained when it is first asked for, and kept."""

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from genjax.data.sources import DataOptions, open_source
from genjax.metrics import classifier
from genjax.metrics.classifier import Extractor, train_classifier
from genjax.run.checkpoint import write_atomically

log = logging.getLogger("genjax")


def cache_folder() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/genjax`, or `~/.cache/genjax`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "genjax"


def extractor_of(data: str, options: DataOptions) -> tuple[Extractor, dict[str, Any]]:
    """The classifier of a data set, and its identity for a protocol.

    Args:
        data: As `open_source` takes it.
        options: How it is read; it trains on `split`, and its accuracy is on `test_split`.

    Returns:
        The extractor, and `sha256` of its variables, `accuracy`, and the split that this is of.

    Raises:
        UsageError: No such data, or data without classes.
    """
    source = open_source(data, options)
    settings = {
        "data": data,
        "options": dataclasses.asdict(options),
        "images": len(source),
        "spec": dataclasses.asdict(source.spec),
        "network": [classifier.WIDTHS, classifier.FEATURES, classifier.STEPS],
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "classifiers" / f"{key}.msgpack"
    if not path.is_file():
        log.info("training a classifier of %s, the feature net of its metrics", data)
        variables = train_classifier(source, options, classifier.STEPS)
        path.parent.mkdir(parents=True, exist_ok=True)
        accuracy = Extractor(source.spec, variables).accuracy(open_source(data, options.for_test))
        write_atomically(
            path.with_suffix(".json"), json.dumps(settings | {"accuracy": accuracy}).encode()
        )
        write_atomically(path, variables)
    variables = path.read_bytes()
    identity = {
        "kind": "classifier",
        "sha256": hashlib.sha256(variables).hexdigest()[:16],
        "accuracy": json.loads(path.with_suffix(".json").read_text())["accuracy"],
        "accuracy_of": options.for_test.split,
    }
    return Extractor(source.spec, variables), identity
