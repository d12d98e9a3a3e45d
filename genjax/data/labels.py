"""The classes of image files: from `dataset.json`, from their folders, or from their names."""

import collections
import itertools
import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from genjax.console import printable
from genjax.data.broken import cause_of
from genjax.data.names import canonical, some
from genjax.types import UsageError

ClassBy = Literal["auto", "folder", "top", "prefix", "none"]
JSON = "dataset.json"
WANTED = f'wanted {{"labels": [[NAME, CLASS], ...]}}; --class-by folder takes no notice of {JSON}'

# Folders that are splits, as in `train/`, `val_images/` and `test2017/`, if there are two of them.
_SPLIT = re.compile(
    r"(?:(train|training)|(val|valid|validation|dev|eval)|(test|testing)|(unlabell?ed))"
    r"(?:[-_ ]?(?:set|images?|data|split|\d{4}))?",
    re.IGNORECASE,
)
_SPLITS = ("train", "val", "test", "unlabeled")
# Folders that only divide a large set: `part_01`, or `00012` in which the numbers of files run on.
_SHARD = re.compile(r"(?:shards?|parts?|chunks?|batch(?:es)?|images)[-_. ]?\d+", re.IGNORECASE)
_NUMBER = re.compile(r"\d{3,}")
# What follows the class in a name: `cat_001`, `cat.12`, `cat7`, `cat (3)`.
_AFTER_PREFIX = re.compile(r"(?:[-_. ][^-_. ]*|\d+|\s*\(\d+\))$")


class Layout(NamedTuple):
    """What the names of image files say about them.

    Attributes:
        images: Indices of the images of the wanted split.
        classes: The class of each image of all splits, None without classes.
        class_names: Names of the classes, in the order of their numbers.
        notes: What was taken for what, a line each.
    """

    images: list[int]
    classes: list[str | None]
    class_names: list[str]
    notes: list[str]


def lay_out(
    names: Sequence[str],
    tables: Mapping[str, Callable[[], bytes]],
    where: str,
    split: str,
    class_by: ClassBy,
) -> Layout:
    """Find the split and the class of each image.

    Args:
        names: Names of the images, canonical.
        tables: Functions that read the files called `dataset.json`, by their canonical names.
        where: The name of the data in error messages.
        split: Folders of this kind are wanted, `train`, `val+test`, ..., if there are such.
        class_by: What the classes are: see `DataOptions.class_by`.

    Raises:
        UsageError: There is no such split, or `dataset.json` cannot be used.
    """
    top = _common_folder(names)
    inner = [name[len(top) :] for name in names]
    split_of, notes = _split_folders(inner)
    nested = [name for name, rest in zip(names, inner, strict=True) if "/" in rest]
    if not split_of and 0 < len(nested) < len(names):  # they may lie in one folder, beside images
        deeper = _common_folder(nested)
        below = [name.removeprefix(deeper) for name in names]
        split_of, notes = _split_folders(below)
        if split_of:
            top, inner = deeper, below
    wanted = _in_split(inner, split_of, split, where)
    within = [name.partition("/")[2] if split_of else name for name in inner]
    bases = [*_ancestors(top), *(f"{top}{folder}/" for folder in split_of)]
    found = {base: tables[base + JSON] for base in bases if base + JSON in tables}
    if found and class_by == "auto":
        classes, said = _from_tables(names, found, where, set(wanted))
    else:
        train = [i for i, top in enumerate(_tops(inner)) if split_of.get(top, "train") == "train"]
        classes, said = _from_names(within, class_by, train or wanted)
    images = [i for i in wanted if classes[i] != ""]
    strays = [names[i] for i in wanted if classes[i] == ""]
    if strays:
        said.append(
            f"{some(strays)} {'lies' if len(strays) == 1 else 'lie'} beside the class folders "
            "and so is left out; --class-by none takes all, without classes"
        )
    class_names = _in_order({c for c in classes if c})
    if len(class_names) < 2:
        return Layout(images, [None] * len(names), [], notes + said)
    counts = collections.Counter(classes[i] for i in images)
    empty = [name for name in class_names if not counts[name]]
    if empty:
        said.append(f"no image of {'class' if len(empty) == 1 else 'the classes'} {some(empty)}")
    return Layout(images, classes, class_names, notes + said)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort class names, as numbers if all are."""
    names = sorted(names)
    if all(re.fullmatch(r"-?[0-9]{1,30}", name) for name in names):
        names.sort(key=int)
    return names


def _common_folder(names: Iterable[str]) -> str:
    """Return the folder that holds all names, with a slash at its end; "" for the root."""
    common = posixpath.commonpath([*{"/" + posixpath.dirname(name) for name in names}])
    return common[1:] + "/" if common != "/" else ""


def _ancestors(folder: str) -> list[str]:
    """Return a folder and those above it, the root first, each with a slash at its end."""
    parts = folder.split("/")[:-1]
    return ["", *("/".join(parts[: i + 1]) + "/" for i in range(len(parts)))]


def _split_folders(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the split of each top folder that is one, empty if the folders are something else."""
    counts = collections.Counter(name.partition("/")[0] for name in names if "/" in name)
    matches = {folder: _SPLIT.fullmatch(folder) for folder in counts}
    split_of = {f: _SPLITS[(m.lastindex or 1) - 1] for f, m in matches.items() if m}
    if len(set(split_of.values())) < 2 or not {"train", "val", "test"} & set(split_of.values()):
        return {}, []
    if "train" not in split_of.values() and len(split_of) < len(counts):
        return {}, []
    others = [folder for folder in counts if folder not in split_of]
    strays = sum("/" not in name for name in names)
    folders = ", ".join(
        f"{printable(folder)} ({counts[folder]:,}): --split {split}"
        for folder, split in split_of.items()
    )
    notes = [f"the top folders are splits, not classes: {folders}; also as --test-split"]
    if others or strays:
        notes.append(
            "left out beside them: "
            + ", ".join(
                [f"{printable(folder)} ({counts[folder]:,})" for folder in others]
                + ([f"{strays:,} images in no folder"] if strays else [])
            )
        )
    return split_of, notes


def _in_split(
    names: Sequence[str], split_of: Mapping[str, str], split: str, where: str
) -> list[int]:
    """Return the indices of the names in the folders of a split, or of splits joined by `+`."""
    has = dict.fromkeys(split_of.values()) if split_of else {"train": None}
    wanted = split.split("+")
    if not set(wanted) <= set(has):
        slices = (
            "" if split_of else ", or a slice in percent such as 'train[:80%]' or 'train[80%:]'"
        )
        raise UsageError(
            f"{where} has no split {split!r}: wanted {' or '.join(map(repr, has))}{slices}"
        )
    if not split_of:
        return list(range(len(names)))
    return [i for i, top in enumerate(_tops(names)) if split_of.get(top) in wanted]


def _tops(names: Iterable[str]) -> Iterable[str]:
    return (name.partition("/")[0] for name in names)


def _from_names(
    names: Sequence[str], class_by: ClassBy, train: Sequence[int]
) -> tuple[list[str | None], list[str]]:
    """Return the class of each image by its name within its split; "" for images outside.

    The images at `train` decide what the classes are.
    """
    if class_by == "none":
        return [None] * len(names), []
    if class_by == "prefix":
        classes: list[str] = [_prefix(name) for name in names]
        what = "what file names begin with"
    elif class_by == "top":
        classes = [name.partition("/")[0] if "/" in name else "" for name in names]
        what = "the top folders"
    else:
        classes = _without_common_end([posixpath.dirname(name) for name in names])
        what = "the folders"
        folders = [classes[i] for i in train]
        if class_by == "auto" and _are_shards([names[i] for i in train], folders):
            shards = sorted(set(folders))
            return [None] * len(names), [
                f"{some(shards)}: taken for parts of one set, not for classes; "
                "--class-by folder makes them classes"
            ]
    counts = collections.Counter(classes[i] for i in train)
    strays = counts.pop("", 0)
    if len(counts) < 2 or 2 * strays > len(train):
        notes = []
        if strays and len(counts) > 1:
            notes = ["no classes, as most images lie in no folder of their own"]
        elif class_by == "auto":
            notes = _prefix_note([names[i] for i in train])
        return [None] * len(names), notes
    notes = [f"the classes are {what}; --class-by says otherwise: auto, folder, top, prefix, none"]
    depths = {name.count("/") for name in counts}
    if len(depths) > 1 or any(name.startswith(f"{other}/") for name in counts for other in counts):
        notes.append("class folders lie in others: --class-by top takes the first folder of each")
    return list(classes), notes


def _without_common_end(folders: list[str]) -> list[str]:
    """Drop the last folder while it is the same in all: `cat/images` and `dog/images`."""
    while len(set(folders)) > 1 and all("/" in folder for folder in folders):
        if len({posixpath.basename(folder) for folder in folders}) > 1:
            break
        folders = [posixpath.dirname(folder) for folder in folders]
    return folders


def _are_shards(names: Sequence[str], folders: Sequence[str]) -> bool:
    kinds = set(folders)
    if len(kinds) < 2:
        return False
    if all(_SHARD.fullmatch(folder) for folder in kinds):
        return True
    if not all(_NUMBER.fullmatch(folder) for folder in kinds):
        return False
    numbers: dict[str, list[int]] = {folder: [] for folder in sorted(kinds, key=int)}
    for name, folder in zip(names, folders, strict=True):
        digits = re.findall(r"\d+", posixpath.splitext(posixpath.basename(name))[0])
        if not digits or len(digits[-1]) > 18:
            return False
        numbers[folder].append(int(digits[-1]))
    return all(max(a) < min(b) for a, b in itertools.pairwise(numbers.values()))


def _prefix(name: str) -> str:
    stem = posixpath.splitext(posixpath.basename(name))[0]
    return "" if stem.isdigit() else _AFTER_PREFIX.sub("", stem) or stem


def _prefix_note(names: Sequence[str]) -> list[str]:
    """Return a hint if the names look as if classes stood in them."""
    counts = collections.Counter(map(_prefix, names))
    if counts[""] or not 2 <= len(counts) <= 100 or len(names) < 4 * len(counts):
        return []
    shown = ", ".join(f"{printable(name)} ({n:,})" for name, n in counts.most_common(3))
    return [f"file names begin with {shown}...: --class-by prefix makes classes of that"]


class _Table(NamedTuple):
    """The classes that a `dataset.json` names, by image; loosely by small letters too."""

    exact: dict[str, str | None]
    loose: dict[str, str | None]


def _from_tables(
    names: Sequence[str], readers: Mapping[str, Callable[[], bytes]], where: str, wanted: set[int]
) -> tuple[list[str | None], list[str]]:
    """Return the class of each image by the nearest `dataset.json` above it.

    The images at `wanted` must all have one, or none of them.
    """
    tables = {base: _read_table(read, f"{where}/{base}{JSON}") for base, read in readers.items()}
    bases = sorted(tables, key=len, reverse=True)
    classes: list[str | None] = []
    unlabelled: list[str] = []
    unknown: list[str] = []
    for i, name in enumerate(names):
        base = next((base for base in bases if name.startswith(base)), "")
        table, within = tables.get(base, _Table({}, {})), name[len(base) :]
        known: str | None = ""
        if table is None:
            known = None
        else:
            keys = (table.exact, within), (table.exact, name), (table.loose, within.casefold())
            known = next((kind[key] for kind, key in keys if key in kind), "")
        if i in wanted and not known:
            (unlabelled if known is None else unknown).append(name)
        classes.append(known or None)
    place = f"{where}/{bases[-1]}{JSON}"
    if unknown:
        raise UsageError(f"{place} has no label for {len(unknown)} images: {some(unknown)}")
    if unlabelled and any(classes):
        raise UsageError(
            f"{place}: {len(unlabelled)} images have null for a class, and others have one: "
            f"{some(unlabelled)}"
        )
    given = {c for table in tables.values() if table for c in table.exact.values() if c}
    notes = [f"the classes are those of {bases[-1]}{JSON}"] if given else []
    if absent := _in_order(given - set(classes)):
        one = len(absent) == 1
        notes.append(
            f"{JSON} has {'a class' if one else 'classes'} without any image here, left out: "
            f"{some(absent)}"
        )
    return classes, notes


def _read_table(read: Callable[[], bytes], where: str) -> _Table | None:
    """Read a `dataset.json`; None if it says that there are no labels."""
    try:
        content = json.loads(read())
    except Exception as error:  # archives raise errors of every class
        raise UsageError(f"{where}: {cause_of(error)}") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise UsageError(f"{where}: {WANTED}")
    entries = content["labels"]
    if entries is None:
        return None
    if isinstance(entries, dict):
        entries = [list(item) for item in entries.items()]
    if not isinstance(entries, list):
        raise UsageError(f"{where}: {WANTED}")
    exact: dict[str, str | None] = {}
    for entry in entries:
        if not isinstance(entry, list) or not entry or not isinstance(entry[0], str):
            raise UsageError(f"{where}: {printable(str(entry))[:80]} is no entry: {WANTED}")
        name, known = canonical(entry[0]), _class_name(entry[1:], entry[0], where)
        if exact.setdefault(name, known) != known:
            raise UsageError(
                f"{where}: {printable(name)} has two classes, {exact[name]} and {known}"
            )
    loose: dict[str, str | None] = {}
    clashes = set()
    for name, known in exact.items():
        # Without the first folder too: names may begin with that of the data's own folder.
        for key in {name.casefold(), name.partition("/")[2].casefold()}:
            if loose.setdefault(key, known) != known:
                clashes.add(key)
    return _Table(exact, {key: known for key, known in loose.items() if key not in clashes})


def _class_name(values: list[Any], name: str, where: str) -> str | None:
    """Return the one class of an entry as text; None for null."""
    wanted = f"{where}: {printable(name)} should have one class, a whole number or a name"
    if len(values) != 1:
        raise UsageError(f"{wanted}, not {len(values)}: {printable(str(values))[:80]}")
    (value,) = values
    if value is None or (isinstance(value, str) and value.strip()):
        return value and printable(value.strip())
    is_whole = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if not is_whole or value != int(value):
        raise UsageError(f"{wanted}, not {str(value)[:80]!r}")
    return str(value if isinstance(value, bool) else int(value))
