"""`tfds:NAME[/CONFIG][:VERSION]` for segmentation: data sets with a mask for each image."""

from collections import defaultdict

from cnn_jax.data.decode import read_header
from cnn_jax.data.formats.masks import label_colors
from cnn_jax.data.formats.tfds import Records, open_records
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.mask_files import Mask, MaskFiles, fitted, meaning_of
from cnn_jax.data.source import Example, Settings, Source, Split
from cnn_jax.errors import UserError

MASK_FEATURES = ("segmentation_mask", "segmentation_label", "mask", "label")
"""The names of the masks' feature, of which the first existing one counts."""
IMAGE_FEATURES = ("image", "image_left")


class TfdsMasks:
    """Images with their masks.

    Attributes:
        class_names: the names of the classes, in the order of the masks' values.
    """

    def __init__(
        self,
        records: Records,
        image: str,
        mask: str,
        masks: MaskFiles,
        reading: Reading = RGB,
    ):
        """Store the records, the names of their features, and how masks and images are read."""
        self.class_names = masks.class_names
        self._records = records
        self._image, self._mask = image, mask
        self._masks = masks
        self._reading = reading
        self._mended: dict[str, set[int]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._records.rows)

    def __getitem__(self, index: int) -> Example:
        name = self.describe(index)
        content = self._records.row(index, name)[self._image]
        image = self._reading.decode(content, name=name)
        return {"image": image, "mask": self.mask(index)}

    def describe(self, index: int) -> str:
        return f"{self._records.title}[{index}]"

    def mask(self, index: int) -> Mask:
        """Read only the mask: a class for each pixel, or `IGNORED`.

        Raises:
            UserError: it cannot be read, or has a value without a class or another shape than the
                image.
        """
        name = self.describe(index)
        row = self._records.row(index, name)
        header = read_header(row[self._image], name=name)
        mask, done = self._masks.read(row[self._mask], header, f"{name} {self._mask}")
        if done:
            self._mended[done].add(index)
        return mask

    def size(self, index: int) -> tuple[int, int]:
        """Read the image's rows and columns."""
        name = self.describe(index)
        header = read_header(self._records.row(index, name)[self._image], name=name)
        return header.size

    @property
    def notices(self) -> tuple[str, ...]:
        """Tell which of the masks read so far had to be fitted to their images."""
        return tuple(fitted(self._mended, self.describe))


def open_tfds_masks(name: str, split: Split, settings: Settings) -> Source:
    """Open one split of a data set for segmentation (`oxford_iiit_pet`, `cityscapes`, ...).

    The classes are `settings.class_names`, else the data set's own names, else
    `settings.label_values` (Oxford's pets have the values 1 2 3).

    Raises:
        UserError: as in `open_records`, or the data set has no masks or no names of classes.
    """
    records = open_records(name, split, settings)
    from tensorflow_datasets import features as kinds

    features = records.features
    pictures = [feature for feature in features if isinstance(features[feature], kinds.Image)]
    mask = next((feature for feature in MASK_FEATURES if feature in pictures), None)
    image = next((feature for feature in IMAGE_FEATURES if feature in pictures), None)
    if mask is None or image is None:
        raise UserError(
            f"--data tfds:{name}: needs an image ({', '.join(IMAGE_FEATURES)}) and a mask "
            f"({', '.join(MASK_FEATURES)}), has {', '.join(sorted(features))}"
        )
    values, colors = settings.label_values, label_colors(settings)
    known = getattr(features[mask], "names", None) or (colors.names if colors else None)
    class_names = settings.class_names or tuple(known or map(str, values))
    if not class_names:
        raise UserError(
            f"--data tfds:{name}: does not name its masks' classes; give their values "
            "with --label-values, or their names with --class-names"
        )
    if values and len(values) != len(class_names):
        raise UserError(f"--label-values: {len(values)} values for {len(class_names)} classes")
    masks = MaskFiles(class_names, meaning_of(len(class_names), settings), colors)
    return records.part(TfdsMasks(records, image, mask, masks, settings.reading))
