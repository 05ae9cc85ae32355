"""The shared part of R-CNN and Fast R-CNN: proposals, and the share of objects they cover."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import models
from cnn_jax.data.packed import folder_of
from cnn_jax.data.proposals.source import ProposalSource, prepare
from cnn_jax.data.proposals.transform import ProposalTransform
from cnn_jax.data.source import Example, Source, Split, Transform
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.errors import UserError
from cnn_jax.metrics.detection import proposals as metrics
from cnn_jax.tasks.detection.evaluation import trained_objects

from .. import options as flags
from .common import System

# Images that the table of recall is of, and that box statistics are measured on, at most.
_MOST_IMAGES = 1000

# The overlaps of the table's columns.
_SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class RegionOptions:
    """The search for regions, and their refinement."""

    regress_boxes: bool = flags.flag(True, resumable=True, unless={"multi_task": (False,)})
    """Move detections to the learnt boxes instead of leaving them where the proposals are."""
    proposal_cache: str | None = flags.flag(
        None, resumable=True, unless={"proposals": ("grid",)}, metavar="DIR"
    )
    """Folder for the proposals that were found. Default: the user's cache folder."""
    proposal_workers: int | None = flags.flag(
        None, resumable=True, minimum=0, maximum=flags.MOST_WORKERS, unless={"proposals": ("grid",)}
    )
    """Processes that search. Default: one for each core; 0 searches in the command's own
    process."""


class RegionSystem(System):
    """A system that classifies proposals."""

    @staticmethod
    def model_names() -> Sequence[str]:
        """The classifiers, as backbones."""
        return models.names()

    @property
    def draft_size(self) -> None:
        """Proposals are searched in the whole image."""
        return None

    def extended(self, source: Source, split: Split) -> Source:
        """The examples with their proposals, which are searched now where they are not known."""
        data, system = self.options.data.data, self.options.detector.system
        if folder_of(data) is not None:
            raise UserError(
                f"--data {data}: packed data has no proposals, which --system {system} needs; read "
                "the data that was packed"
            )
        search = self.options.regions
        cache = None if search.proposal_cache is None else Path(search.proposal_cache)
        proposed = ProposalSource(source, self.options.proposals, cache)
        prepare(proposed, search.proposal_workers)
        return proposed

    def transform(self, max_objects: int | None = None) -> Transform:
        """Images squashed to the network's square, with rows for objects and proposals."""
        return ProposalTransform(
            super().transform(max_objects), self.options.proposals.max_proposals
        )

    def unlabelled(self, image: np.ndarray) -> Example:
        """An image to predict for, with its proposals."""
        proposals = self.options.proposals
        return {
            **super().unlabelled(image),
            "proposals": proposals.find(image)[: proposals.max_proposals],
        }

    def preparation(self) -> str:
        """The preparation of an image and its proposals, in words."""
        chosen = self.options.proposals
        return (
            f"{super().preparation()}; proposals: x1 y1 x2 y2 of regions in pixels of the squashed "
            f"image, best first, the first {chosen.max_proposals} of {chosen.proposals}, filled up "
            "with zeros; proposal_valid: which of them are not filled up"
        )

    def decided_by(
        self, surveyed: BoxSurvey, training: Source, held_out: Source
    ) -> tuple[Any, list[str]]:
        """The options, and the table of what the proposals cover."""
        return self.options, self._recall_lines(held_out)

    def _recall_lines(self, held_out: Source) -> list[str]:
        """Recall by number of proposals and overlap, a line each: the method's ceiling."""
        batches = first_images(self.evaluation_set(held_out).iterate())
        counts = metrics.steps(self.options.proposals.max_proposals)
        recall, sums = measured_recall(batches, counts)
        columns = [metrics.THRESHOLDS.index(threshold) for threshold in _SHOWN]
        head = "".join(f"   IoU {threshold:.1f}" for threshold in _SHOWN)
        lines = [
            f"{recall.proposals:,.1f} proposals an image; the first ones of each image cover this "
            f"share of {int(sums.objects):,} objects in {int(sums.images):,} evaluation images:",
            f"{'proposals':>9}{head}   average (.5 to .95)",
        ]
        for count, row, average in zip(counts, recall.by_threshold, recall.average, strict=True):
            cells = "".join(f"{100 * row[column]:8.1f} %" for column in columns)
            lines.append(f"{count:>9,}{cells}{100 * average:8.1f} %")
        return lines


def first_images(
    batches: Iterable[Mapping[str, np.ndarray]], most: int = _MOST_IMAGES
) -> Iterator[Mapping[str, np.ndarray]]:
    """The first batches, of about so many images."""
    images = 0
    for batch in batches:
        yield batch
        images += int(batch["valid"].sum())
        if images >= most:
            return


def measured_recall(
    batches: Iterable[Mapping[str, np.ndarray]], counts: tuple[int, ...]
) -> tuple[metrics.Recall, metrics.Covered]:
    """Measure the share of objects that the first proposals of each image cover."""

    @jax.jit
    def covered(batch: Mapping[str, jax.Array]) -> metrics.Covered:
        one = partial(metrics.coverage, counts=counts)
        valid, objects = batch["valid"], trained_objects(dict(batch))
        found = jax.vmap(one)(
            batch["proposals"],
            batch["proposal_valid"],
            batch["boxes"],
            objects & valid[:, None],
        )
        sums = jax.tree.map(lambda x: x.sum(axis=0), found)
        # Rows that fill the last batch up are no images.
        return sums._replace(images=valid.sum())

    names = (
        *("proposals", "proposal_valid", "boxes", "object_valid"),
        *("difficult", "crowd", "valid"),
    )
    total = None
    for batch in batches:
        sums = covered({name: jnp.asarray(batch[name]) for name in names})
        sums = jax.tree.map(np.asarray, sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    if total is None:
        raise UserError("--data: the evaluation set holds no example")
    return metrics.recall(total), total
