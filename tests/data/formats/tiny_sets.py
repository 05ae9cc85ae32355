"""TFDS data sets made here, with TFDS's own builders."""

import io
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNTS = {"train": 20, "test": 6, "validation": 4}


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (4 + number % 3, 5, 3), np.uint8)


def png(pixels: np.ndarray) -> io.BytesIO:
    # TFDS stores what a file object holds as it is; arrays it would encode with TensorFlow.
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Pictures whose label is their number's remainder by three."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = tuple(COUNTS)
    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["zero", "one", "two"]),
            "number": tfds.features.Scalar(np.int64),
        }
    )

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.FEATURES)

    def _split_generators(self, dl_manager):
        return {split: self._examples(COUNTS[split]) for split in self.SPLITS}

    def _examples(self, count):
        for number in range(count):
            yield number, {"image": png(picture(number)), "label": number % 3, "number": number}

    def _generate_examples(self):
        raise NotImplementedError


class TinyTrainOnly(Tiny):
    """No split for evaluation."""

    SPLITS = ("train",)


class TinyTest(Tiny):
    """A test split but no validation split, and grey pictures."""

    SPLITS = ("train", "test")
    FEATURES = tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Image(shape=(None, None, 1)),
            "class": tfds.features.ClassLabel(names=["zero", "one", "two"]),
        }
    )

    def _examples(self, count):
        for number in range(count):
            label = -1 if (count, number) == (COUNTS["test"], 0) else number % 3
            yield number, {"picture": png(picture(number)[..., 0]), "class": label}


class TinyFaces(Tiny):
    """Pictures with as many faces as their number, one of them invalid."""

    SPLITS = ("train", "validation")
    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "faces": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "invalid": np.bool_}
            ),
        }
    )

    def _examples(self, count):
        for number in range(min(count, 4)):
            boxes = [tfds.features.BBox(0.0, 0.2 * i, 0.5, 0.2 * i + 0.2) for i in range(number)]
            faces = [{"bbox": box, "invalid": i == 0} for i, box in enumerate(boxes)]
            yield number, {"image": png(picture(number)), "faces": faces}


class TinyObjects(Tiny):
    """Pictures with one object, as COCO lists them."""

    SPLITS = ("train", "validation")
    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "area": np.int64,
                    "is_crowd": np.bool_,
                    "label": tfds.features.ClassLabel(names=["zero", "one", "two"]),
                }
            ),
        }
    )

    def _examples(self, count):
        for number in range(count):
            box = tfds.features.BBox(0.5, 0.0, 1.0, 1.0)
            one = {"bbox": box, "area": 3, "is_crowd": number == 2, "label": number % 3}
            yield number, {"image": png(picture(number)), "objects": [one]}


class TinyPhotos(Tiny):
    """One picture that EXIF turns, with a box of its first row of pixels as stored."""

    SPLITS = ("train",)
    FEATURES = TinyFaces.FEATURES

    def _examples(self, count):
        box = tfds.features.BBox(0.0, 0.0, 0.25, 1.0)
        exif = Image.Exif()
        exif[0x0112] = 6
        for number in (0, 3):
            buffer = io.BytesIO()
            Image.fromarray(picture(number)).save(buffer, "PNG", exif=exif)
            buffer.seek(0)
            yield number, {"image": buffer, "faces": [{"bbox": box, "invalid": False}]}


class TinyText(Tiny):
    """Nothing to classify."""

    SPLITS = ("train",)
    FEATURES = tfds.features.FeaturesDict({"text": tfds.features.Text()})

    def _examples(self, count):
        yield 0, {"text": "a word"}


class TinyMasks(Tiny):
    """Pictures with masks of the values 1, 2 and 3, as Oxford's pets have them."""

    SPLITS = ("train", "test")
    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1), dtype=np.uint8),
        }
    )

    def _examples(self, count):
        for number in range(count):
            pixels = picture(number)
            mask = np.full(pixels.shape[:2], 1 + number % 3, np.uint8)
            yield number, {"image": png(pixels), "segmentation_mask": png(mask)}


class TinyBroken(Tiny):
    """Cannot be prepared, as without a network."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("no route\nto the host")


class TinyNeedy(Tiny):
    """Needs a package that is not here, as TFDS's own sets need theirs."""

    SPLITS = ("train",)

    def _examples(self, count):
        import no_such_package

        yield 0, {"image": no_such_package.image(), "label": 0, "number": 0}


class TinyArrays(Tiny):
    """Pictures as arrays, which TFDS encodes with TensorFlow."""

    SPLITS = ("train",)

    def _examples(self, count):
        yield 0, {"image": picture(0), "label": 0, "number": 0}


class TinySized(Tiny):
    """Sets of two sizes, and of two versions: the older one has an example more."""

    VERSION = tfds.core.Version("2.0.0")
    SUPPORTED_VERSIONS: ClassVar = [tfds.core.Version("1.0.0")]
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="small"),
        tfds.core.BuilderConfig(name="large"),
    ]
    SPLITS = ("train", "validation")

    def _examples(self, count):
        count = {"small": 3, "large": 6}[self.builder_config.name]
        return super()._examples(count + (self.version == "1.0.0"))


class TinyTurned(Tiny):
    """Pictures that EXIF turns, and masks that are stored like their pixels."""

    SPLITS = ("train",)
    FEATURES = TinyMasks.FEATURES

    def _examples(self, count):
        exif = Image.Exif()
        exif[0x0112] = 6
        for number in range(3):
            mask = np.random.default_rng(number).integers(0, 2, (4, 5), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(np.repeat(mask[..., None] * 100, 3, -1)).save(buffer, "PNG", exif=exif)
            buffer.seek(0)
            yield number, {"image": buffer, "segmentation_mask": png(mask)}
