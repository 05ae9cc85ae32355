"""`masks:DIR`: images, and masks with a class for each pixel in files of the same names."""

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cnn_jax import processors
from cnn_jax.conventions import IGNORED
from cnn_jax.data.decode import MOST_IMAGE_BYTES, READ, read_header
from cnn_jax.data.formats.folder import hold_out
from cnn_jax.data.image_files import describe_left_out, list_images
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.label_colors import TABLE_FILE, LabelColors, read_label_colors, voc_colors
from cnn_jax.data.mask_files import Mask, MaskFiles, fitted, meaning_of, read_mask
from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.data.splits import by_kind, kind_of, serving
from cnn_jax.errors import UserError
from cnn_jax.reading import folders_in, read_bytes, read_lines, user_path

CLASSES_FILE = "classes.txt"
"""The file in the data's folder with the names of the classes, one per line, by value."""

IMAGES = ("images", "image", "imgs", "img")
LABELS = ("labels", "label", "masks", "mask", "annotations")
"""The names of the two folders, in any case, of which the first existing one counts."""

_LOSSY_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".avif")


class MaskSource:
    """Images with their masks.

    Attributes:
        class_names: the names of the classes, in the order of the masks' values.
        files: the file of each image.
    """

    def __init__(
        self,
        root: Path,
        pairs: Sequence[tuple[str, str]],
        masks: MaskFiles,
        notices: Sequence[str] = (),
        reading: Reading = RGB,
    ):
        """Store pairs of files (image, mask) relative to `root`, and how masks are read.

        With a draft size of `reading` an image may be smaller than its mask.
        """
        self.class_names = masks.class_names
        self.files = [os.path.join(root, image) for image, _ in pairs]
        self._mask_files = [os.path.join(root, mask) for _, mask in pairs]
        self._masks = masks
        self._reading = reading
        self._notices = tuple(notices)
        self._mended: dict[str, set[int]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        image = self._reading.decode(self.describe(index))
        return {"image": image, "mask": self.mask(index)}

    def describe(self, index: int) -> str:
        return self.files[index]

    def mask(self, index: int) -> Mask:
        """Read only the mask: a class for each pixel, or `IGNORED`.

        Raises:
            UserError: a file cannot be read, or the mask has a value without a class, or another
                shape than the image.
        """
        path = self._mask_files[index]
        content = read_bytes(path, MOST_IMAGE_BYTES)
        mask, done = self._masks.read(content, read_header(self.files[index]), path)
        if done:
            self._mended[done].add(index)
        return mask

    def size(self, index: int) -> tuple[int, int]:
        """Read the image's rows and columns from the file's header."""
        header = read_header(self.files[index])
        return header.size

    @property
    def notices(self) -> tuple[str, ...]:
        """Tell what was left out, and which of the masks read so far had to be fitted."""
        return (*self._notices, *fitted(self._mended, lambda index: self._mask_files[index]))


def open_masks(directory: str, split: Split, settings: Settings) -> MaskSource:
    """Open one split of `DIR/images/…` and `DIR/labels/…`, files of the same names but for endings.

    The folders may have other usual names (`IMAGES`, `LABELS`), and may lie below the folders of
    splits instead of above them (`DIR/train/images`, `DIR/train/masks`).

    - If `images/train`, `images/val`, `images/test` (and the same below `labels`; by any of the
      names in `cnn_jax.data.splits`) exist, the split `eval` is `val`, else `test`; the split
      `test` is `test`, else `val`.
    - Else `settings.eval_folders` and `settings.test_folders` name the held-out folders directly
      below `images`; all others are for training.
    - Else a fraction of the files is held out as with `folder:DIR`.

    A mask holds values, or colours of the table `settings.label_colors` (a file, or `voc`) or
    `DIR/class_dict.csv`, in which the position of a colour is its value. The classes are
    `settings.class_names`, else the lines of `DIR/classes.txt`, else the table's, else the values
    in the training masks. A split for evaluation may lack some of them.

    With `settings.keep_bad_images`, an image without a mask, or with one that cannot be read, stays
    in the source, to be found when it is read.

    Raises:
        UserError: a folder or file is missing, or the settings do not match the data.
    """
    if not directory:
        raise UserError("--data masks: lacks a folder, give masks:DIR")
    root = user_path(directory)
    files = _files(root, f"--data masks:{directory}")
    chosen, notices = _of_split(files, split, settings)
    missing_stay = settings.keep_bad_images
    pairs = files.pairs(chosen, missing_stay)
    colors = _colors(root, settings)
    class_names = settings.class_names or _named(root) or (colors.names if colors else ())
    if settings.label_values:
        if colors is not None and class_names == colors.names:
            class_names = tuple(
                class_names[value] for value in settings.label_values if value < len(class_names)
            )
        class_names = class_names or tuple(map(str, settings.label_values))
        if len(class_names) != len(settings.label_values):
            raise UserError(
                f"--label-values: {len(settings.label_values)} values for {len(class_names)} "
                "classes"
            )
    if not class_names:
        train = chosen if split == "train" else _of_split(files, "train", settings)[0]
        class_names = _inferred(files, files.pairs(train, missing_stay), settings)
    if len(set(class_names)) < len(class_names):
        raise UserError(f"{root}: the names of the classes must differ: {', '.join(class_names)}")
    masks = MaskFiles(class_names, meaning_of(len(class_names), settings), colors)
    return MaskSource(root, pairs, masks, [*notices, *files.notices], settings.reading)


@dataclass
class _Files:
    """The images and masks below a folder.

    Attributes:
        root: the folder.
        labels: the uppermost folder of the masks, for messages.
        images: the images' paths by their keys. A key is the path without the names of the two
            folders, such as `train/a.jpg`; in keys of masks the split is called as its kind.
        masks: the paths of the masks by their keys without ending.
        expected: the path of each image's mask, for messages.
        notices: what was left out.
    """

    root: Path
    labels: str = LABELS[0]
    images: dict[str, str] = field(default_factory=dict)
    masks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    expected: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def add(self, above: str, images: str, labels: str) -> None:
        """Add what lies in two folders below `root`/`above`."""
        for name in (images, labels):
            place = os.path.join(self.root, above, name)
            found = list_images(place)
            self.notices += describe_left_out(place, found.left_out)
            for path in found.files:
                key, own = os.path.join(above, path), os.path.join(above, name, path)
                if name == images:
                    self.images[key] = own
                    stem = os.path.splitext(path)[0]
                    self.expected[key] = os.path.join(above, labels, f"{stem}.png")
                else:
                    self.masks[_mask_key(key)].append(own)

    def pairs(self, keys: Sequence[str], missing_stay: bool = False) -> list[tuple[str, str]]:
        """The paths of images and their masks.

        Args:
            keys: those of the images.
            missing_stay: whether an image without a mask is paired with one that does not exist.

        Raises:
            UserError: an image has no mask or several, or one in a format that changes values.
        """
        return [(self.images[key], self._mask(key, missing_stay)) for key in keys]

    def _mask(self, key: str, missing_stays: bool) -> str:
        found = self.masks.get(_mask_key(key), [])
        exact = [path for path in found if not path.lower().endswith(_LOSSY_ENDINGS)]
        if len(exact) == 1:
            return exact[0]
        if exact:
            raise UserError(
                f"{self.root / self.images[key]}: two masks for this image, {exact[0]} and "
                f"{exact[1]}; keep one of them"
            )
        if found:
            ending = os.path.splitext(found[0])[1]
            raise UserError(
                f"{self.root / found[0]}: a mask in {ending}, which changes the values of pixels; "
                "save masks as PNG"
            )
        if missing_stays:
            return self.expected[key]
        raise UserError(
            f"{self.root / self.images[key]}: no mask {self.root / self.expected[key]} for this "
            "image"
        )


def _mask_key(path: str) -> str:
    """The key of a mask, or of the mask of an image: without ending, and with the split's kind."""
    stem = os.path.splitext(path)[0]
    first, separator, rest = stem.partition(os.sep)
    return f"{kind_of(first) or first}{separator}{rest}" if separator else stem


def _files(root: Path, spec: str) -> _Files:
    """List the images and masks below a folder."""
    here = folders_in(root) if root.is_dir() else []
    images, labels = _called(here, IMAGES), _called(here, LABELS)
    files = _Files(root, labels or LABELS[0])
    if images and labels:
        files.add("", images, labels)
    elif not images:
        for name in by_kind(here, str(root)).values():
            below = folders_in(root / name)
            own = _called(below, IMAGES), _called(below, LABELS)
            if all(own):
                files.add(name, *own)
    if not images and not files.images:
        raise UserError(f"{spec}: no folder {root / IMAGES[0]}")
    if images and not labels:
        raise UserError(f"{spec}: no folder {root / LABELS[0]}")
    if not files.images:
        raise UserError(f"{root / images}: contains no images ({READ})")
    wanted = {_mask_key(key) for key in files.images}
    unused = sorted(path for key in files.masks.keys() - wanted for path in files.masks[key])
    if unused:
        masks = "mask was" if len(unused) == 1 else "masks were"
        files.notices.append(
            f"{root}: {len(unused):,} {masks} left out, as no image has the name (the first: "
            f"{unused[0]})"
        )
    return files


def _called(folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the names that one of the folders has, in any case."""
    by_name = {folder.casefold(): folder for folder in reversed(folders)}
    return next((by_name[name] for name in names if name in by_name), None)


def _of_split(files: _Files, split: Split, settings: Settings) -> tuple[list[str], list[str]]:
    """The keys of a split's images, and notices."""
    names, place = sorted(files.images), files.root / IMAGES[0]
    folders = {_folder(name) for name in names} - {""}
    given = {"eval": set(settings.eval_folders), "test": set(settings.test_folders)}
    for key, wanted in given.items():
        if unknown := sorted(wanted - folders):
            raise UserError(
                f"--{key}-folders {unknown[0]}: no folder {place / unknown[0]} with "
                f"images (there are: {', '.join(sorted(folders)) or 'none'})"
            )
    if any(given.values()):
        other = given["eval"] or given["test"]
        wanted = (
            (given[split] or other) if split != "train" else folders - set.union(*given.values())
        )
        return _chosen(names, wanted, split, f"--{split}-folders"), []
    found = by_kind(folders, str(place))
    others = [name for name in names if kind_of(_folder(name)) is None]
    if not found:
        return _held_out(names, split, settings, place), []
    if others and "train" not in found:
        raise UserError(
            f"{place}: {', '.join(f'{name}/' for name in found.values())} is called like a split, "
            f"but {others[0]} lies beside it and there is no train/; say with `eval_folders` or "
            "`test_folders` what is held out"
        )
    notices = []
    if others:
        images = "image was" if len(others) == 1 else "images were"
        notices = [
            f"{place}: {len(others):,} {images} left out, beside the folders of splits (the first: "
            f"{others[0]})"
        ]
    own = serving(split, found)
    if own is not None and serving("eval", found) is not None:
        return _chosen(names, {own}, split, str(place)), notices
    if "train" not in found:
        raise UserError(f"{place}: leaves no images for the split {split!r}")
    training = [name for name in names if _folder(name) == found["train"]]
    return _held_out(training, split, settings, place), notices


def _folder(name: str) -> str:
    """The uppermost folder of a path, or "" if there is none."""
    return name.split(os.sep)[0] if os.sep in name else ""


def _chosen(names: Sequence[str], folders: set[str], split: Split, place: str) -> list[str]:
    chosen = [name for name in names if _folder(name) in folders]
    if not chosen:
        raise UserError(f"{place}: leaves no images for the split {split!r}")
    return chosen


def _held_out(names: list[str], split: Split, settings: Settings, place: Path) -> list[str]:
    kept = hold_out(names, settings)
    chosen = [name for name in names if (name in kept) == (split != "train")]
    if not chosen:
        raise UserError(
            f"{place}: too few files (or too small a --holdout-fraction) to hold any "
            f"out; add {place / 'val'}/, or give --eval-folders"
        )
    return chosen


def _colors(root: Path, settings: Settings) -> LabelColors | None:
    """The table of colours that is given, or that lies in the folder."""
    return label_colors(settings) or (
        read_label_colors(root / TABLE_FILE) if (root / TABLE_FILE).is_file() else None
    )


def label_colors(settings: Settings) -> LabelColors | None:
    """The table of colours that the settings name.

    Raises:
        UserError: it cannot be read.
    """
    if settings.label_colors is None:
        return None
    if settings.label_colors == "voc":
        return voc_colors(*([len(settings.class_names)] if settings.class_names else []))
    return read_label_colors(user_path(settings.label_colors))


def _named(root: Path) -> tuple[str, ...]:
    """The classes that the data's folder names."""
    path = root / CLASSES_FILE
    if not path.exists():
        return ()
    return tuple(line.strip() for line in read_lines(path) if line.strip())


def _inferred(
    files: _Files, pairs: Sequence[tuple[str, str]], settings: Settings
) -> tuple[str, ...]:
    """Name the values in the training masks: `class 0`, `class 1`, ..."""

    def values(pair: tuple[str, str]) -> set[int]:
        try:
            return set(np.unique(read_mask(files.root / pair[1])).tolist())
        except UserError:
            if settings.keep_bad_images:
                return set()
            raise

    place = files.root / files.labels
    with ThreadPoolExecutor(processors.available()) as pool:
        present = set().union(*pool.map(values, pairs))
    classes = present - {IGNORED, *settings.ignore_labels}
    if classes <= {0} and IGNORED in present:
        raise UserError(
            f"{place}: masks hold only 0 and 255; 255 means ignored pixels, give "
            "--label-values 0 255 if it is a class"
        )
    if not classes or max(classes) >= IGNORED:
        raise UserError(
            f"{place}: values up to {max(present, default=0)} are no classes; define "
            "them with --class-names or --label-values"
        )
    if classes == {0}:
        raise UserError(
            f"{place}: the training masks hold only the value 0, so there is nothing to tell apart"
        )
    return tuple(f"class {value}" for value in range(max(classes) + 1))
