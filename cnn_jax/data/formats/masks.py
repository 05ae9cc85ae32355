"""`masks:DIR`: images, and masks with a class for each pixel in files of the same names."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import UnidentifiedImageError

from cnn_jax.conventions import IGNORED
from cnn_jax.data.decode import EXTENSIONS, decode, open_image
from cnn_jax.data.formats.folder import hold_out
from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.data.splits import by_kind, serving
from cnn_jax.errors import UserError

MASK_EXTENSIONS = (".png", ".bmp")
"""The extensions of mask files; JPEG would change their values."""

CLASSES_FILE = "classes.txt"
"""The file in the data's folder with the names of the classes, one per line, by value."""

# Pillow's modes with one number per pixel.
_SINGLE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B")

Mask = UInt8[np.ndarray, "height width"]


class MaskSource:
    """Images with their masks.

    Attributes:
        class_names: the names of the classes, in the order of the masks' values.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[tuple[str, str]],
        class_names: tuple[str, ...],
        values: np.ndarray,
    ):
        """Store pairs of files (image, mask) relative to `root`.

        `values` maps each value of a mask file to a class, `IGNORED`, or -1 for invalid values.
        """
        self.class_names = class_names
        self._root = root
        self._files = files
        self._values = values

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        return {"image": decode(self.describe(index)), "mask": self.mask(index)}

    def describe(self, index: int) -> str:
        return os.path.join(self._root, self._files[index][0])

    def mask(self, index: int) -> Mask:
        """Read only the mask: a class for each pixel, or `IGNORED`.

        Raises:
            UserError: the file cannot be read, has several channels or another size than the
                image, or has a value without a class.
        """
        path = os.path.join(self._root, self._files[index][1])
        raw = read_mask(path)
        if raw.shape != (size := self.size(index)):
            raise UserError(
                f"{path}: the mask has {raw.shape[0]} x {raw.shape[1]} pixels, "
                f"its image {size[0]} x {size[1]}"
            )
        return classes_of(raw, self._values, path, len(self.class_names))

    def size(self, index: int) -> tuple[int, int]:
        """Read the image's rows and columns from the file's header."""
        path = self.describe(index)
        try:
            with open_image(path) as image:
                upright = image.getexif().get(0x0112, 1) < 5
                return image.size[::-1] if upright else image.size
        except Exception:
            # Decoding the whole file gives the right message.
            return decode(path).shape[:2]


def read_mask(path: str) -> np.ndarray:
    """Read the raw values of a mask file, such as a palette's indices.

    Raises:
        UserError: the file cannot be read or has more than one channel.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: the mask cannot be read ({error.strerror})") from None
    return decode_mask(content, path)


def decode_mask(content: bytes, name: str) -> np.ndarray:
    """Decode the raw values of an encoded mask; `name` is for the message.

    Raises:
        UserError: it is not an image, or has more than one channel.
    """
    try:
        with open_image(BytesIO(content)) as image:
            if image.mode not in _SINGLE_CHANNEL:
                channels = len(image.getbands())
                raise UserError(
                    f"{name}: a mask of {channels} channels ({image.mode}); it must have one, "
                    "whose values are the classes"
                )
            return np.asarray(image).astype(np.int64)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name}: the mask cannot be read (not an image)") from None
    except Exception as error:
        raise UserError(f"{name}: damaged mask ({error})") from error


def classes_of(raw: np.ndarray, meaning: np.ndarray, name: str, num_classes: int) -> Mask:
    """Map a mask's values to classes.

    Args:
        raw: the values.
        meaning: the class of each value, `IGNORED`, or -1 for invalid values.
        name: the mask's name, for the message.
        num_classes: the number of classes, for the message.

    Raises:
        UserError: a value is invalid.
    """
    known = (raw >= 0) & (raw < len(meaning))
    mask = meaning[np.where(known, raw, 0)]
    wrong = ~known | (mask < 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise UserError(
            f"{name}: value {raw[row, column]} at row {row}, column {column} is none of the "
            f"{num_classes} classes (0 to {num_classes - 1}) nor {IGNORED} for ignored pixels; "
            "--ignore-labels, --label-values or --class-names may define it"
        )
    return mask.astype(np.uint8)


def open_masks(directory: str, split: Split, settings: Settings) -> MaskSource:
    """Open one split of `DIR/images/…` and `DIR/labels/…`.

    - If `images/train`, `images/val`, `images/test` (and the same below `labels`) exist, the split
      `eval` is `val`, else `test`; the split `test` is `test`, else `val`.
    - Else `settings.eval_folders` and `settings.test_folders` name the held-out folders directly
      below `images`; all others are for training.
    - Else a fraction of the files is held out as with `folder:DIR`.

    The classes are `settings.class_names`, else the lines of `DIR/classes.txt`, else the values
    in the training masks.

    Raises:
        UserError: a folder or file is missing, or the settings do not match the data.
    """
    if not directory:
        raise UserError("--data masks: lacks a folder, give masks:DIR")
    root = Path(directory).expanduser()
    for name in ("images", "labels"):
        if not (root / name).is_dir():
            raise UserError(f"--data masks:{directory}: no folder {root / name}")
    names = sorted(_files(root / "images", EXTENSIONS))
    if not names:
        raise UserError(f"{root / 'images'}: contains no images ({', '.join(EXTENSIONS)})")
    labels = {os.path.splitext(name)[0]: name for name in _files(root / "labels", MASK_EXTENSIONS)}
    chosen = _of_split(root, names, split, settings)
    pairs = _pairs(root, chosen, labels)
    if settings.label_values:
        given = settings.class_names or _named(root)
        class_names = given or tuple(str(value) for value in settings.label_values)
        if len(class_names) != len(settings.label_values):
            raise UserError(
                f"--label-values: {len(settings.label_values)} values for {len(class_names)} "
                "classes"
            )
    else:
        class_names = settings.class_names or _named(root)
    if not class_names:
        train = chosen if split == "train" else _of_split(root, names, "train", settings)
        class_names = _inferred(root, _pairs(root, train, labels), settings)
    return MaskSource(root, pairs, class_names, meaning_of(len(class_names), settings))


def _files(place: Path, extensions: tuple[str, ...]) -> Iterator[str]:
    """List the files below a folder with one of the extensions, relative to it and not hidden."""
    for directory, folders, names in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(extensions) and not name.startswith("."):
                yield os.path.relpath(os.path.join(directory, name), place)


def _of_split(root: Path, names: list[str], split: Split, settings: Settings) -> list[str]:
    """Return the images of a split."""
    folders = {name.split(os.sep)[0] for name in names if os.sep in name}
    given = {"eval": set(settings.eval_folders), "test": set(settings.test_folders)}
    for key, wanted in given.items():
        if unknown := sorted(wanted - folders):
            raise UserError(
                f"--{key}-folders {unknown[0]}: no folder {root / 'images' / unknown[0]} with "
                f"images (there are: {', '.join(sorted(folders)) or 'none'})"
            )
    if any(given.values()):
        other = given["eval"] or given["test"]
        wanted = (
            (given[split] or other) if split != "train" else folders - set.union(*given.values())
        )
        place = f"--{split}-folders"
    else:
        found = by_kind(folders, str(root / "images"))
        if "train" not in found:
            return _held_out(names, split, settings, root)
        if serving("eval", found) is None:
            training = [name for name in names if name.split(os.sep)[0] == found["train"]]
            return _held_out(training, split, settings, root)
        wanted = {serving(split, found)}
        place = str(root / "images")
    chosen = [name for name in names if name.split(os.sep)[0] in wanted]
    if not chosen:
        raise UserError(f"{place}: leaves no images for the split {split!r}")
    return chosen


def _held_out(names: list[str], split: Split, settings: Settings, root: Path) -> list[str]:
    kept = hold_out(names, settings)
    chosen = [name for name in names if (name in kept) == (split != "train")]
    if not chosen:
        raise UserError(
            f"{root / 'images'}: too few files (or too small a --holdout-fraction) to hold any "
            f"out; add {root / 'images' / 'val'}/, or give --eval-folders"
        )
    return chosen


def _pairs(root: Path, images: list[str], labels: dict[str, str]) -> list[tuple[str, str]]:
    pairs = []
    for name in images:
        stem = os.path.splitext(name)[0]
        if stem not in labels:
            raise UserError(
                f"{root / 'images' / name}: no mask {root / 'labels' / stem}.png for this image"
            )
        pairs.append((os.path.join("images", name), os.path.join("labels", labels[stem])))
    return pairs


def _named(root: Path) -> tuple[str, ...]:
    path = root / CLASSES_FILE
    if not path.is_file():
        return ()
    try:
        return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _inferred(root: Path, pairs: list[tuple[str, str]], settings: Settings) -> tuple[str, ...]:
    """Name the values in the training masks: `class 0`, `class 1`, ..."""

    def values(pair: tuple[str, str]) -> set[int]:
        return set(np.unique(read_mask(str(root / pair[1]))).tolist())

    with ThreadPoolExecutor() as pool:
        present = set().union(*pool.map(values, pairs))
    classes = present - {IGNORED, *settings.ignore_labels}
    if classes <= {0} and IGNORED in present:
        raise UserError(
            f"{root / 'labels'}: masks hold only 0 and 255; 255 means ignored pixels, give "
            "--label-values 0 255 if it is a class"
        )
    if not classes or max(classes) >= IGNORED:
        raise UserError(
            f"{root / 'labels'}: values up to {max(present, default=0)} are no classes; define "
            "them with --class-names or --label-values"
        )
    return tuple(f"class {value}" for value in range(max(classes) + 1))


def meaning_of(num_classes: int, settings: Settings) -> np.ndarray:
    """Map each value of a mask file to a class, `IGNORED`, or -1 for invalid values."""
    for value in (*settings.label_values, *settings.ignore_labels):
        if not 0 <= value < 65536:
            raise UserError(f"label {value}: masks hold values from 0 to 65535")
    listed = settings.label_values or range(num_classes)
    meaning = np.full(max(IGNORED, *listed, *settings.ignore_labels, 0) + 1, -1, np.int16)
    meaning[IGNORED] = IGNORED
    for label, value in enumerate(listed):
        meaning[value] = label
    for value in settings.ignore_labels:
        meaning[value] = IGNORED
    return meaning
