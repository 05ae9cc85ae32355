"""`folder:DIR`: one folder per class, with or without `train/` and `val|test/` above them."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnn_jax.data.decode import EXTENSIONS, decode
from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.errors import UserError

# The folders of each split, of which the first existing one counts. Only these names make a
# folder's children splits instead of classes.
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "eval": ("val", "valid", "validation", "test"),
    "test": ("test", "val", "valid", "validation"),
}


class FolderSource:
    """Images whose class is the name of their folder.

    Attributes:
        class_names: the folders' names, sorted; the label is the position in them.
    """

    def __init__(
        self,
        root: Path,
        class_names: tuple[str, ...],
        files: list[tuple[str, int]],
        draft_size: int | None = None,
    ):
        """Store the files, relative to `root`, each with its label."""
        self.class_names = class_names
        self._root = root
        self._names = [name for name, _ in files]
        self._labels = np.array([label for _, label in files], np.int32)
        self._draft_size = draft_size

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        image = decode(self.describe(index), draft_size=self._draft_size)
        return {"image": image, "label": self._labels[index]}

    def describe(self, index: int) -> str:
        return os.path.join(self._root, self._names[index])


def open_folder(directory: str, split: Split, settings: Settings) -> FolderSource:
    """Open one split of a folder of images.

    - `DIR/train/CLASS/…` and `DIR/val/CLASS/…` or `DIR/test/CLASS/…`: the split `eval` is `val`
      (also called `valid` or `validation`), else `test`; the split `test` is `test`, else `val`.
    - `DIR/CLASS/…`, or no folder for evaluation: `eval` (and `test`) are held out of the files by
      a hash of their names, `settings.holdout_fraction` of each class. The files are the same in
      every run, for any seed.
    - `settings.holdout_groups`: as above, by whole groups of files; `test` is `test` if it exists.

    Files lie at any depth below their class's folder. Hidden files and those without an image's
    extension are ignored.

    Raises:
        UserError: a folder is missing or has no class or no image, the classes of the splits
            differ, or `holdout_groups` does not match a file. The message names it.
    """
    if not directory:
        raise UserError("--data folder: lacks a folder, give folder:DIR")
    root = Path(directory).expanduser()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"--data folder:{directory}: {problem}")
    folders = _split_folders(root)
    held_out = split != "train" and (
        split not in folders or (split == "eval" and settings.holdout_groups is not None)
    )
    place = folders.get("train" if held_out else split)
    if place is None:
        raise UserError(f"{root}: has no folder {split}/ (it has: {_listing(root)})")
    class_names = _class_names(place)
    for other in folders.values():
        _require_same_classes(place, class_names, other)
    from_training = place == folders.get("train")
    divided = from_training and (settings.holdout_groups is not None or "eval" not in folders)
    files: list[tuple[str, int]] = []
    for label, class_name in enumerate(class_names):
        names = _image_files(place, class_name)
        if not names:
            raise UserError(
                f"{place / class_name}: class folder without images ({', '.join(EXTENSIONS)}); "
                "remove it or fill it"
            )
        if divided:
            chosen = hold_out(names, settings)
            names = [name for name in names if (name in chosen) == held_out]
        files.extend((name, label) for name in names)
    if not files:
        folder = SPLIT_FOLDERS[split][0]
        raise UserError(
            f"{place}: too few files (or too small a --holdout-fraction) to hold any out for "
            f"evaluation; add {root / folder}/"
        )
    return FolderSource(place, class_names, files, settings.draft_size)


def _split_folders(root: Path) -> dict[Split, Path]:
    """Find the folder of each split; `{"train": root}` if classes lie directly below root."""
    folders: dict[Split, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        for name in names:
            if (root / name).is_dir():
                folders.setdefault(split, root / name)
    known = {name for names in SPLIT_FOLDERS.values() for name in names}
    if "train" in folders or (folders and all(name in known for name in _folders(root))):
        return folders
    return {"train": root}


def _folders(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _listing(place: Path) -> str:
    return ", ".join(f"{name}/" for name in _folders(place)[:8]) or "nothing"


def _class_names(place: Path) -> tuple[str, ...]:
    names = tuple(_folders(place))
    if not names:
        raise UserError(f"{place}: no class folders, expected {place}/CLASS/IMAGE")
    return names


def _require_same_classes(place: Path, class_names: tuple[str, ...], other: Path) -> None:
    differing = sorted(set(class_names) ^ set(_folders(other)))
    if differing:
        name = differing[0]
        lacking, having = (other, place) if name in class_names else (place, other)
        raise UserError(f"{lacking}: has no folder for the class {name!r}, which {having} has")


def _image_files(place: Path, class_name: str) -> list[str]:
    """List the images below a class's folder, relative to `place`, sorted."""

    def walk(directory: str) -> Iterator[str]:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from walk(entry.path)
                elif entry.name.lower().endswith(EXTENSIONS):
                    yield os.path.relpath(entry.path, place)

    return sorted(walk(os.path.join(place, class_name)))


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
    ranked = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
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
