"""`folder:DIR`: one folder per class, with or without folders of splits above them."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cnn_jax.data.decode import READ, read_header
from cnn_jax.data.image_files import EXTENSIONS, describe_left_out, list_images
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.data.splits import NAMES, Kind, by_kind, kind_of, serving
from cnn_jax.errors import UserError
from cnn_jax.reading import Listing, files_in, folders_in, user_path

_USUAL: dict[Split, Kind] = {"train": "train", "eval": "val", "test": "test"}
_KNOWN = {name for names in NAMES.values() for name in names}


class FolderSource:
    """Images whose class is the name of their folder.

    Attributes:
        class_names: the folders' names, sorted; the label is the position in them.
        labels: the label of each image.
        notices: what was left out or taken in a way that may surprise, one line each.
    """

    def __init__(
        self,
        root: Path,
        class_names: tuple[str, ...],
        files: list[tuple[str, int]],
        reading: Reading = RGB,
        notices: Sequence[str] = (),
    ):
        """Store the files, relative to `root`, each with its label."""
        self.class_names = class_names
        self.labels = np.array([label for _, label in files], np.int32)
        self.notices = tuple(notices)
        self._root = root
        self._names = [name for name, _ in files]
        self._reading = reading

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        image = self._reading.decode(self.describe(index))
        return {"image": image, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        return os.path.join(self._root, self._names[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns as the image's header has them."""
        return read_header(self.describe(index)).size

    @property
    def files(self) -> list[str]:
        """The file of each image."""
        return [os.path.join(self._root, name) for name in self._names]


def open_folder(directory: str, split: Split, settings: Settings) -> FolderSource:
    """Open one split of a folder of images.

    - `DIR/train/CLASS/…` and `DIR/val/CLASS/…` or `DIR/test/CLASS/…`, by any of the names in
      `cnn_jax.data.splits`: the split `eval` is `val`, else `test`; the split `test` is `test`,
      else `val`. A folder is one of these if it holds folders: a class may be called `train`.
    - `DIR/CLASS/…`, or no folder for evaluation: `eval` (and `test`) are held out of the files by
      a hash of their names, `settings.holdout_fraction` of each class. The files are the same in
      every run, for any seed.
    - `settings.holdout_groups`: as above, by whole groups of files; `test` is `test` if it exists.

    Files lie at any depth below their class's folder. The classes are those of the training
    folder; a folder for evaluation may lack some of them.

    Raises:
        UserError: a folder is missing, or has no class or a single one, or looks like something
            else than a class; a class has no training image, or only images for evaluation;
            `holdout_groups` does not match a file. The message names it.
    """
    if not directory:
        raise UserError("--data folder: lacks a folder, give folder:DIR")
    root = user_path(directory)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"--data folder:{directory}: {problem}")
    found, notices = _splits(root)
    own = serving(split, found)
    held_out = split != "train" and (
        own is None or (split == "eval" and settings.holdout_groups is not None)
    )
    if held_out:
        own = found.get("train")
    if own is None:
        wanted = "train" if held_out else split
        raise UserError(f"{root}: has no folder {wanted}/ (it has: {_listed(folders_in(root))})")
    place = root / own
    class_names = _class_names(root, found, place)
    images = {name: _images(place, name) for name in class_names}
    _require_classes(place, own == "", images)
    in_training = own == found.get("train")
    divided = in_training and (
        settings.holdout_groups is not None or serving("eval", found) is None
    )
    files: list[tuple[str, int]] = []
    left_out: Counter[str] = Counter()
    for label, (class_name, listing) in enumerate(images.items()):
        names = listing.files
        left_out.update(listing.left_out)
        if not names and in_training:
            raise UserError(
                f"{place / class_name}: class folder without images ({READ}); remove it or fill it"
            )
        if divided:
            chosen = hold_out(names, settings)
            names = [name for name in names if (name in chosen) == held_out]
        files.extend((name, label) for name in names)
    if not files and divided:
        raise UserError(
            f"{place}: too few files (or too small a --holdout-fraction) to hold any out for "
            f"evaluation; add {root / _USUAL[split]}/"
        )
    if not files:
        raise UserError(f"{place}: no images ({READ}) in its class folders")
    notices += _surprises(place, images)
    notices += describe_left_out(place, left_out)
    return FolderSource(place, class_names, files, settings.reading, notices)


def _splits(root: Path) -> tuple[dict[Kind, str], list[str]]:
    """Find the folder of each split, and notices; `{"train": ""}` if root holds the classes."""
    names = folders_in(root)
    named = [name for name in names if kind_of(name) is not None]
    divided = [name for name in named if folders_in(root / name)]
    flat = [name for name in named if name not in divided]
    others = [name for name in names if name not in named]
    if divided and (not others or "train" in map(kind_of, divided)):
        found = by_kind(divided, str(root))
        return found, _beside(root, found, flat, others)
    if divided:
        raise UserError(
            f"{root}: {_listed(divided)} holds class folders as a split does, but there is no "
            f"train/ among the others ({_listed(others)}); rename them or move them away"
        )
    kinds = {kind_of(name) for name in flat}
    if flat and not others:
        raise UserError(
            f"{root}: no class folders: {_listed(flat)} are called like splits, expected "
            f"{root / flat[0]}/CLASS/IMAGE"
        )
    if len(kinds) > 1 and "train" in kinds:
        raise UserError(
            f"{root}: {_listed(flat)} are called like splits, {_listed(others)} like classes; "
            f"expected {root}/train/CLASS/IMAGE, or class folders alone"
        )
    alike = [f"{root}: {name}/ is taken for a class, not for a split" for name in flat]
    return {"train": ""}, alike


def _beside(root: Path, found: dict[Kind, str], flat: list[str], others: list[str]) -> list[str]:
    """Notices about the folders beside those of splits."""
    notices = []
    for name in flat:
        kind = kind_of(name)
        if kind != "test" and kind not in found:
            raise UserError(
                f"{root / name}: no class folders, expected {root / name}/CLASS/IMAGE; fill it or "
                "move it away"
            )
        notices.append(f"{root / name}: left out, as it has no class folders")
    if others:
        notices.append(f"{root}: left out {_listed(others)}, beside the folders of splits")
    return notices


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(f"{name}/" for name in names[:8]) or "nothing") + more


def _class_names(root: Path, found: dict[Kind, str], place: Path) -> tuple[str, ...]:
    """The classes: the folders of the training split or, without one, of all others."""
    by_place = {root / name: folders_in(root / name) for name in found.values()}
    if not by_place[place]:
        raise UserError(f"{place}: no class folders, expected {place}/CLASS/IMAGE")
    if "train" not in found:
        return tuple(sorted({name for names in by_place.values() for name in names}))
    training = root / found["train"]
    for other, names in by_place.items():
        if lacking := sorted(set(names) - set(by_place[training])):
            raise UserError(
                f"{training}: has no folder for the class {lacking[0]!r}, which {other} has"
            )
    return tuple(by_place[training])


def _images(place: Path, class_name: str) -> Listing:
    """List the images below a class's folder, relative to `place`; none if it is missing."""
    return list_images(place, class_name) if (place / class_name).is_dir() else Listing()


def _require_classes(place: Path, flat: bool, images: Mapping[str, Listing]) -> None:
    """Raise UserError if the class folders look like something else.

    Args:
        place: the folder of the class folders.
        flat: whether no folder of a split stands above them.
        images: the files below each class folder.
    """
    names = list(images)
    below = {name: _folders_below(listing) for name, listing in images.items()}
    nested = [name for name, listing in images.items() if below[name] and not _direct(listing)]
    if len(names) == 1:
        hint = "a classifier needs two or more"
        if nested:
            hint = f"if the folders in it ({_listed(below[names[0]])}) are the classes, "
            hint += f"give folder:{place / names[0]}" if flat else f"move them to {place}"
        raise UserError(f"{place}: a single class folder, {names[0]}/; {hint}")
    if nested == names and all(kind_of(name) for names in below.values() for name in names):
        example = f"{names[0]}/{below[names[0]][0]}/"
        raise UserError(
            f"{place}: splits lie below the classes ({example}), expected "
            f"{place / below[names[0]][0] / names[0]}/IMAGE"
        )
    if flat and all(_looks_like_split(name) for name in names):
        raise UserError(
            f"{place}: {_listed(names)} look like splits, not like classes; call them train, val "
            f"and test, and expect {place}/train/CLASS/IMAGE"
        )


def _surprises(place: Path, images: Mapping[str, Listing]) -> list[str]:
    """Notices about class folders that hold only folders, and about images beside them."""
    notices = []
    below = {
        name: _folders_below(listing) for name, listing in images.items() if not _direct(listing)
    }
    nested = [f"{name}/{names[0]}/" for name, names in below.items() if names]
    if nested:
        notices.append(
            f"{place}: {len(nested)} of the {len(images)} class folders hold only folders (such as "
            f"{nested[0]}); what lies below counts as the upper folder's class"
        )
    loose = sum(name.lower().endswith(EXTENSIONS) for name in files_in(place))
    if loose:
        notices.append(
            f"{place}: {loose:,} {'image lies' if loose == 1 else 'images lie'} beside the class "
            "folders, left out"
        )
    return notices


def _direct(listing: Listing) -> bool:
    """Tell whether a file lies directly in the class's folder."""
    return any(name.count(os.sep) == 1 for name in listing.files)


def _folders_below(listing: Listing) -> list[str]:
    """The folders with images that lie directly in the class's folder."""
    parts = (name.split(os.sep) for name in listing.files)
    return sorted({part[1] for part in parts if len(part) > 2})


def _looks_like_split(name: str) -> bool:
    """Tell whether one of a name's words is a split's, as in `seg_train`."""
    return not _KNOWN.isdisjoint(re.split(r"[^a-z]+", name.casefold()))


def hold_out(names: list[str], settings: Settings) -> set[str]:
    """Select the evaluation files of one class: the groups with the smallest hashes.

    For a fraction above 0 it is at least one group of two or more, but never all groups.
    """
    if settings.holdout_fraction == 0:
        return set()
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name, settings.holdout_groups), []).append(name)
    wanted = round(settings.holdout_fraction * len(groups))
    wanted = min(max(wanted, 1), len(groups) - 1)
    # Names may hold bytes that are no UTF-8, which Python keeps as surrogates.
    ranked = sorted(groups, key=lambda group: hashlib.sha256(os.fsencode(group)).digest())
    return {name for group in ranked[:wanted] for name in groups[group]}


def _group(name: str, pattern: str | None) -> str:
    """Return the key of a file's group: the file itself, or the match of `pattern`."""
    if pattern is None:
        return name
    try:
        match = re.match(pattern, os.path.basename(name))
    except re.error as error:
        raise UserError(f"--holdout-groups {pattern}: not a regular expression ({error})") from None
    if match is None:
        raise UserError(f"--holdout-groups {pattern}: does not match the file name {name}")
    return os.path.join(os.path.dirname(name), match[1] if match.re.groups else match[0])
