"""The page of a data set before training: what is in it, how it looks, and what looks wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from cnn_jax.data.decode import as_rgb
from cnn_jax.data.surveys.contents import Contents, truth_of
from cnn_jax.data.surveys.inspection import Inspection, Repeated
from cnn_jax.data.transforms import whole_size
from cnn_jax.reports import masks
from cnn_jax.reports.boxes import TRUTH, Mark, Scene, Scenes, draw_boxes
from cnn_jax.reports.html import Html, bar, join, tag
from cnn_jax.reports.page import Folded, Lines, Section, Table, render
from cnn_jax.reports.pictures import RIGHT, WRONG

SAMPLES, SAMPLES_HELD_OUT = 16, 8
"""The samples shown of the training split, and of each other one."""

SHOWN = 8
"""The pictures shown of each kind of suspicion."""

_SIDE = 400  # the longer side of a drawn picture
_BARS = 60
_ROWS = 12  # a longer table of classes is closed
_NAMED = 12  # labels at most in a caption


# Of any size each.
Picture = UInt8[np.ndarray, "_ _ 3"]


def page(inspection: Inspection, title: str, command: str = "") -> str:
    """Write the page as HTML; the pictures that it shows are read again.

    Args:
        inspection: what was found.
        title: the heading.
        command: the command line.
    """
    sections = [
        Lines("Findings", inspection.findings(), "Nothing suspicious was found."),
        *_classes(inspection),
        sizes(inspection),
        *_leaks(inspection, across=True),
        *samples(inspection),
        *_leaks(inspection, across=False),
        *suspicious(inspection),
        *_unreadable(inspection),
    ]
    if notices := inspection.notices():
        sections.append(Lines("What the reader did", notices))
    return render(title, f"{inspection.summary()}.", sections, command)


def _classes(inspection: Inspection) -> list[Section]:
    """A table of the classes; of many, bars instead, and the table closed."""
    table = classes(inspection)
    if len(table.rows) <= _ROWS:
        return [table]
    return [ClassBars("Classes", inspection), Folded(table)]


@dataclass(frozen=True)
class ClassBars:
    """A section with a bar for the images of each class in the first split, most first.

    Attributes:
        title: the heading.
        inspection: what was found.
    """

    title: str
    inspection: Inspection

    def html(self) -> Html:
        splits, names = self.inspection.splits, self.inspection.class_names
        counts = splits[0].examples
        order = np.argsort(-counts, kind="stable").tolist()
        most = max(1, int(counts.max(initial=0)))
        bars = [
            bar(names[i], counts[i] / most, " + ".join(f"{s.examples[i]:,}" for s in splits))
            for i in order
        ]
        note = f"Images with each class: {' + '.join(split.name for split in splits)}."
        parts = [tag("p", note, class_="note"), tag("div", *bars[:_BARS], class_="bars")]
        if rest := bars[_BARS:]:
            summary = tag("summary", f"the other {len(rest)} classes")
            parts.append(tag("details", summary, tag("div", *rest, class_="bars")))
        return join(parts)


def classes(inspection: Inspection) -> Table:
    """Tabulate the images, and objects or pixels, of each class by split."""
    splits = inspection.splits
    unit = {"boxes": "boxes", "mask": "pixels"}.get(splits[0].kind or "")
    header = ["class"]
    for split in splits:
        header += [f"{split.name}: images", *([unit] if unit else [])]
    rows = []
    for label, name in enumerate(inspection.class_names):
        row = [name]
        for split in splits:
            row.append(f"{split.examples[label]:,}")
            if unit:
                row.append(_amount(split, label))
        rows.append(row)
    return Table("Classes by split", header, rows)


def _amount(split: Contents, label: int) -> str:
    amount = int(split.amounts[label])
    if split.kind == "boxes":
        return f"{amount:,}"
    return f"{100 * amount / max(1, int(split.amounts.sum())):.2f} %"


def sizes(inspection: Inspection) -> Table:
    """Tabulate the sizes and the forms of the images of each split."""
    rows = []
    for split in inspection.splits:
        distinct = np.array([*split.sizes] or [(0, 0)])
        height, width = np.repeat(distinct, [*split.sizes.values()] or [1], axis=0).T
        (common, times), *_ = split.sizes.most_common(1) or [((0, 0), 0)]
        forms = ", ".join(f"{form} {count:,}" for form, count in split.forms.most_common())
        rows.append(
            [
                split.name,
                forms,
                f"{len(split.source):,}",
                f"{split.unreadable:,}",
                *(_span(sides) for sides in (width, height)),
                f"{common[1]} x {common[0]} ({times:,})",
            ]
        )
    header = ["split", "files", "images", "unreadable", "width", "height", "most often"]
    note = "Width and height: smallest, median and largest, in pixels as shown upright."
    return Table("Sizes and modes", header, rows, note, left=2)


def _span(sides: np.ndarray) -> str:
    low, middle, high = int(sides.min()), int(np.median(sides)), int(sides.max())
    return f"{low:,}" if low == high else f"{low:,}, {middle:,}, {high:,}"


def samples(inspection: Inspection) -> Iterator[Section]:
    """Draw samples of each split with their labels, evenly spread over it."""
    for number, split in enumerate(inspection.splits):
        count = SAMPLES_HELD_OUT if number else SAMPLES
        places = [p for p in range(len(split)) if split.truths[p]]
        if not places:
            continue
        chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int))
        scenes = [_scene(split, int(split.indices[places[i]])) for i in chosen]
        note = "Evenly spread over the split."
        yield _pictures(f"Samples: {split.name}", split, scenes, note)


@dataclass(frozen=True)
class Pictures(Scenes):
    """A section of pictures with a key of their colours.

    Attributes:
        key: the key, above the pictures; empty for none.
    """

    key: Sequence[Html] = ()

    def html(self) -> Html:
        return join([*self.key, super().html()])


def _pictures(title: str, split: Contents, scenes: Sequence[Scene], note: str) -> Pictures:
    masked = split.kind == "mask"
    key = [masks.key(split.source.class_names)] if masked else []
    return Pictures(title, scenes, note, masked, key)


def _leaks(inspection: Inspection, across: bool) -> Iterator[Section]:
    """Show the most similar repeated pictures, and those with other labels."""
    for pair in inspection.pairs:
        if pair.across != across or not pair.count:
            continue
        where = f"are in {pair.within.name} too" if across else "repeat earlier ones"
        title = f"Pictures of {pair.split.name} that {where}"
        note = (
            f"With the same pixels: {pair.exact:,}; near copies: {pair.count - pair.exact:,}. "
            "Left: the picture; right: the one that it repeats."
        )
        places = pair.ranked(contradicted=True)[:SHOWN]
        rest = [place for place in pair.ranked() if place not in places]
        # Doubtful ones are among the least similar, which are to be looked at too.
        places += rest[:SHOWN] + rest[SHOWN:][-SHOWN:]
        yield Scenes(title, [_pair(pair, place) for place in places], note, pairs=True)


def _pair(pair: Repeated, place: int) -> Scene:
    other = int(pair.found.of[place])
    index, source = int(pair.split.indices[place]), int(pair.within.indices[other])
    one, two = _scene(pair.split, index), _scene(pair.within, source)
    how = "same pixels" if pair.found.exact[place] else f"alike {pair.found.similarity[place]:.3f}"
    if pair.contradicted[place]:
        caption = f"{how}, other labels: {one.caption} | {two.caption}"
    else:
        caption = f"{how}: {one.caption}"
    where = f"{one.where} | {two.where}"
    return Scene(_beside(one.picture, two.picture), caption, where, right=False)


def _beside(first: Picture, second: Picture, height: int = 300, gap: int = 6) -> Picture:
    """Put two pictures side by side at one height."""
    scaled = [_resized(p, (height, max(1, round(p.shape[1] * height / p.shape[0]))))
              for p in (first, second)]  # fmt: skip
    return np.hstack([scaled[0], np.full((height, gap, 3), 255, np.uint8), scaled[1]])


def suspicious(inspection: Inspection) -> Iterator[Section]:
    """Show suspicious examples of each kind, the suspicious boxes in red."""
    for split in inspection.splits:
        for what, odd in sorted(split.odd.items()):
            scenes = [_scene(split, index, boxes) for index, boxes in odd.first[:SHOWN]]
            note = f"{odd.count:,} in all; the first images."
            yield _pictures(f"{split.name}: {what}", split, scenes, note)


def _unreadable(inspection: Inspection) -> Iterator[Section]:
    for split in inspection.splits:
        if split.unreadable:
            yield Lines(f"Unreadable files of {split.name}: {split.unreadable:,}", split.reasons)


def _scene(split: Contents, index: int, boxes: Sequence[int] | None = None) -> Scene:
    """Draw an example with its labels; some of its boxes in red, if given."""
    example, names = split.source[index], split.source.class_names
    caption = _caption(example, names)
    picture = _drawn(example, names, boxes or ())
    return Scene(picture, caption, split.source.describe(index), right=boxes is None)


def _caption(example: Mapping[str, Any], names: Sequence[str]) -> str:
    """The classes of an example; how many of each, or which share of the pixels."""
    truth = truth_of(example, len(names))
    found = np.flatnonzero(truth.amounts)
    parts = [names[i] for i in found]
    if truth.kind == "boxes":
        parts = [f"{truth.amounts[i]:,} {names[i]}" for i in found]
    if truth.kind == "mask":
        shares = 100 * truth.amounts / example["mask"].size
        found = found[np.argsort(-shares[found], kind="stable")]
        parts = [f"{names[i]} {shares[i]:.{int(shares[i] < 1)}f} %" for i in found]
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return (", ".join(parts[:_NAMED]) or "no label") + more


def _drawn(example: Mapping[str, Any], names: Sequence[str], marked: Sequence[int]) -> Picture:
    """Draw what an example's labels say into its picture, in a size for a page."""
    image = as_rgb(example["image"])
    if "mask" in example:
        return _masked(image, example["mask"], len(names))
    picture = _fitted(image)
    if "boxes" not in example:
        return picture
    height, width = whole_size(example)
    scale = np.array([picture.shape[1] / width, picture.shape[0] / height] * 2)
    order = sorted(range(len(example["boxes"])), key=lambda i: i in marked)
    color = WRONG if marked else RIGHT
    marks = []
    for i in order:
        ignored = example["crowd"][i] or example["difficult"][i]
        plain = TRUTH if ignored or (marked and i not in marked) else color
        text = "" if marked and i not in marked else names[int(example["labels"][i])]
        marks.append(Mark(example["boxes"][i] * scale, text, plain))
    return draw_boxes(picture, marks)


def _masked(image: Picture, mask: masks.Mask, num_classes: int) -> Picture:
    """Put the picture beside its mask's colours; ignored pixels are black."""
    picture = _fitted(image)
    height, width = picture.shape[:2]
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    colors = masks.palette(num_classes)[small]
    return np.hstack([picture, np.full((height, 4, 3), 255, np.uint8), colors])


def _fitted(image: Picture) -> Picture:
    """Shrink a picture to the size that is shown."""
    if max(image.shape[:2]) <= _SIDE:
        return image
    return np.asarray(ImageOps.contain(Image.fromarray(image), (_SIDE, _SIDE)))


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    return np.asarray(Image.fromarray(picture).resize(size[::-1]))
