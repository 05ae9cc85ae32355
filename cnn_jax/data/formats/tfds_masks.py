"""`tfds:NAME[/CONFIG]` for segmentation: data sets with a mask for each image."""

from io import BytesIO

import numpy as np

from cnn_jax.data.decode import decode, open_image
from cnn_jax.data.formats.masks import Mask, classes_of, decode_mask, meaning_of
from cnn_jax.data.formats.tfds import Records, open_records
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
        class_names: tuple[str, ...],
        meaning: np.ndarray,
    ):
        """Store the records and the names of their features; `meaning` as in `masks:DIR`."""
        self.class_names = class_names
        self._records = records
        self._image, self._mask = image, mask
        self._meaning = meaning

    def __len__(self) -> int:
        return len(self._records.rows)

    def __getitem__(self, index: int) -> Example:
        image = decode(self._records.rows[index][self._image], name=self.describe(index))
        return {"image": image, "mask": self.mask(index)}

    def describe(self, index: int) -> str:
        return f"{self._records.title}[{index}]"

    def mask(self, index: int) -> Mask:
        """Read only the mask: a class for each pixel, or `IGNORED`.

        Raises:
            UserError: it has several channels, or a value without a class.
        """
        name = f"{self.describe(index)} {self._mask}"
        raw = decode_mask(self._records.rows[index][self._mask], name)
        return classes_of(raw, self._meaning, name, len(self.class_names))

    def size(self, index: int) -> tuple[int, int]:
        """Read the mask's rows and columns."""
        with open_image(BytesIO(self._records.rows[index][self._mask])) as image:
            return image.size[::-1]


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
    values = settings.label_values
    known = getattr(features[mask], "names", None)
    class_names = settings.class_names or tuple(known or map(str, values))
    if not class_names:
        raise UserError(
            f"--data tfds:{name}: does not name its masks' classes; give their values "
            "with --label-values, or their names with --class-names"
        )
    if values and len(values) != len(class_names):
        raise UserError(f"--label-values: {len(values)} values for {len(class_names)} classes")
    meaning = meaning_of(len(class_names), settings)
    return records.part(TfdsMasks(records, image, mask, class_names, meaning))
