"""R-CNN's training examples: regions of all images in one list, drawn by what they stand for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32

from cnn_jax.data.batches import KeptRows
from cnn_jax.data.source import Example
from cnn_jax.errors import UserError
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.matching import match


@dataclass(frozen=True)
class Windows:
    """Regions of a set of images.

    Attributes:
        image: position of the image in its source.
        boxes: in pixels of the image as the transform leaves it.
        labels: 0 for the background, 1 + the class of the object that a region stands for.
    """

    image: Int32[np.ndarray, " windows"]
    boxes: Float32[np.ndarray, "windows 4"]
    labels: Int32[np.ndarray, " windows"]

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of(
        cls, batches: Iterable[Mapping[str, np.ndarray]], foreground_iou: float = 0.5
    ) -> "Windows":
        """All proposals of a set and the objects' own boxes.

        Girshick et al. 2014, section 2.3: a region stands for the object that it overlaps most,
        from `foreground_iou` on, and for the background below.

        Args:
            batches: of examples as `ProposalTransform` leaves them.
            foreground_iou: the least overlap with an object.
        """

        def labelled(example: Mapping[str, Array]) -> tuple[Array, Array, Array]:
            objects = example["object_valid"] & ~example["difficult"] & ~example["crowd"]
            regions = jnp.concatenate([example["boxes"], example["proposals"]])
            valid = jnp.concatenate([objects, example["proposal_valid"]]) & example["valid"]
            matches = match(
                box_ops.iou(regions, example["boxes"]),
                objects,
                valid,
                foreground=foreground_iou,
                background=(0.0, foreground_iou),
            )
            labels = jnp.where(matches.foreground, 1 + example["labels"][matches.index], 0)
            return regions, labels, valid

        names = (
            *("boxes", "labels", "object_valid", "difficult", "crowd"),
            *("proposals", "proposal_valid", "valid"),
        )
        label = jax.jit(jax.vmap(labelled))
        images, boxes, labels = [], [], []
        for batch in batches:
            found = label({name: jnp.asarray(batch[name]) for name in names})
            regions, of_region, valid = map(np.asarray, found)
            numbers = np.broadcast_to(batch["index"][:, None], valid.shape)
            images.append(numbers[valid].astype(np.int32))
            boxes.append(regions[valid])
            labels.append(of_region[valid].astype(np.int32))
        return cls(*(np.concatenate(column) for column in (images, boxes, labels)))


class WindowSource:
    """The windows of a set, one by one: the whole `image`, a `box` in it, and its `label`.

    The image goes with every window, so that the crop is made, and mirrored, on the device.
    """

    def __init__(self, images: KeptRows, windows: Windows):
        """Takes the images as they are prepared, and regions in their pixels."""
        self.class_names = images.source.class_names
        self._images, self._windows = images, windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Example:
        image = int(self._windows.image[index])
        return {
            "image": self._images[image]["image"],
            "box": self._windows.boxes[index],
            "label": self._windows.labels[index],
        }

    def describe(self, index: int) -> str:
        return self._images.source.describe(int(self._windows.image[index]))


class WindowOrder:
    """Which windows make batch k: a fixed share stands for objects, drawn anew for every batch.

    Girshick et al. 2014, section 2.3: 32 of 128 for objects of any class, the rest for the
    background, each drawn from all such windows of the whole set.
    """

    def __init__(
        self,
        labels: Int[np.ndarray, " windows"],
        batch_size: int,
        seed: int,
        foreground_fraction: float = 0.25,
    ):
        """Takes the windows' labels.

        Raises:
            UserError: there is no window at all.
        """
        if not len(labels):
            raise UserError("--proposals: there is no region to train on: no proposal, no object")
        self._foreground = np.flatnonzero(labels)
        self._background = np.flatnonzero(labels == 0)
        # Where one kind is missing, the other fills the batch.
        share = round(foreground_fraction * batch_size)
        share = share if len(self._background) else batch_size
        self._share = share if len(self._foreground) else 0
        self._batch_size, self._seed = batch_size, seed

    def __call__(self, positions: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        steps, rows = np.divmod(positions, self._batch_size)
        indices = np.empty_like(positions)
        for step in np.unique(steps):
            chosen = steps == step
            indices[chosen] = self._batch(int(step))[rows[chosen]]
        return indices

    def _batch(self, step: int) -> Int[np.ndarray, " batch"]:
        rng = np.random.default_rng([self._seed, *b"windows", step])
        drawn = [
            rng.choice(kind, count) if count else np.zeros(0, np.int64)
            for kind, count in (
                (self._foreground, self._share),
                (self._background, self._batch_size - self._share),
            )
        ]
        # Mixed, so that every device gets some of both.
        return rng.permutation(np.concatenate(drawn))


def same(example: Example) -> Example:
    """The transform of examples that are prepared already."""
    return example
