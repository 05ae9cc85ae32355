"""R-CNN's training examples: regions of all images in one list, sampled by class."""

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
        image: the position of the image in its source.
        boxes: the regions in pixels of the transformed image.
        labels: 0 for the background, 1 + the class of the matched object otherwise.
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
        """Collect all proposals of a set and the objects' own boxes.

        Girshick et al. 2014, section 2.3: a region has the class of the object that it overlaps
        most if the IoU is at least `foreground_iou`; otherwise it is background.

        Args:
            batches: batches of examples, prepared by `ProposalTransform`.
            foreground_iou: the least IoU with an object.
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
            labelled_batch = label({name: jnp.asarray(batch[name]) for name in names})
            regions, of_region, valid = map(np.asarray, labelled_batch)
            numbers = np.broadcast_to(batch["index"][:, None], valid.shape)
            images.append(numbers[valid].astype(np.int32))
            boxes.append(regions[valid])
            labels.append(of_region[valid].astype(np.int32))
        return cls(*(np.concatenate(column) for column in (images, boxes, labels)))


class WindowSource:
    """The windows of a set, one by one: the whole `image`, a `box` in it, and its `label`.

    Every window comes with its image, so that the device can cut and mirror the crop.
    """

    def __init__(self, images: KeptRows, windows: Windows):
        """Store the prepared images, and regions in their pixels."""
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
    """The windows of batch k: a fixed fraction is foreground, sampled anew for every batch.

    Girshick et al. 2014, section 2.3: 32 of 128 are objects of any class and the rest is
    background, each sampled from all such windows of the whole set.
    """

    def __init__(
        self,
        labels: Int[np.ndarray, " windows"],
        batch_size: int,
        seed: int,
        foreground_fraction: float = 0.25,
    ):
        """Store the windows' labels.

        Raises:
            UserError: there are no windows.
        """
        if not len(labels):
            raise UserError("--proposals: there is no region to train on: no proposal, no object")
        self._foreground = np.flatnonzero(labels)
        self._background = np.flatnonzero(labels == 0)
        # If one kind is missing, the other fills the batch.
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
        # Shuffled, so that every device gets both kinds.
        return rng.permutation(np.concatenate(drawn))
