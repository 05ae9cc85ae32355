"""`shapes`: scenes of textured shapes, drawn on demand: built-in data for every task.

`scene` is the only generator. It draws an image with the ground truth of all tasks. It is a pure
function of (seed, split, index), so the number of scenes is unlimited and none is stored.

Coordinates are continuous: pixel (row, column) covers [column, column + 1) x [row, row + 1).
"""

import colorsys
import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.errors import UserError

EXAMPLES_PER_EPOCH: dict[Split, int] = {"train": 50_000, "eval": 2_000, "test": 2_000}
"""The number of scenes in an epoch of each split; higher indices give further scenes."""

MINIMUM_SIZE = 16
"""The side in pixels below which the shapes cannot be distinguished."""

# Part of the key of each scene's random stream, so that splits never share a scene.
_STREAMS: dict[Split, int] = {"train": 0, "eval": 1, "test": 2}

# For antialiasing, outlines are filled on a grid this much finer than the pixels, then averaged.
_SUPERSAMPLING = 4
_FRACTION_BITS = 4

_RAMP = np.linspace(0, 1, 256, dtype=np.float32)[:, None, None]

Vertices = Float[np.ndarray, "vertices 2"]

# An outline and the holes in it.
Contours = tuple[Vertices, ...]


def _arc(
    radius: float, start: float, stop: float, centre: tuple[float, float] = (0.0, 0.0)
) -> Vertices:
    """Compute points along a circle between two angles in degrees."""
    angles = np.radians(np.linspace(start, stop, 3 + int(abs(stop - start) / 8)))
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radius + np.array(centre)


def _corners(count: int, *radii: float) -> Vertices:
    """Compute points at equal angles, the first on top, at distances that repeat `radii`."""
    angles = np.radians(np.arange(count) * 360 / count - 90)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.resize(radii, (count, 1))


def _points(points: str) -> Vertices:
    """Parse corners in the notation of SVG's polygons: `x,y x,y …`."""
    return np.array([point.split(",") for point in points.split()], float)


def _heart() -> Vertices:
    """Compute the usual trigonometric heart, centred on the origin."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2.5], axis=-1) / 15.5


# The outline of each class, about one unit around the origin; the second one is a hole.
_OUTLINES: dict[str, Contours] = {
    "arrow": (_points("0,-1 .85,-.1 .3,-.1 .3,1 -.3,1 -.3,-.1 -.85,-.1"),),
    "circle": (_arc(0.95, 0.0, 360.0),),
    "crescent": (np.concatenate([_arc(1.0, 52.4, 307.6), _arc(0.8, 277.9, 82.1, (0.5, 0.0))]),),
    "cross": (
        _points(
            ".34,-1 .34,-.34 1,-.34 1,.34 .34,.34 .34,1 "
            "-.34,1 -.34,.34 -1,.34 -1,-.34 -.34,-.34 -.34,-1"
        ),
    ),
    "heart": (_heart(),),
    "hexagon": (_corners(6, 1.0),),
    "ring": (_arc(1.0, 0.0, 360.0), _arc(0.55, 0.0, 360.0)),
    "square": (_points("-.82,-.82 .82,-.82 .82,.82 -.82,.82"),),
    "star": (_corners(10, 1.1, 0.45),),
    "triangle": (_corners(3, 1.15),),
}

CLASS_NAMES = tuple(_OUTLINES)
"""The shapes, in the order of the labels."""


@dataclass(frozen=True)
class Scene:
    """A drawn scene and its ground truth.

    Attributes:
        image: the picture, RGB.
        boxes: [x1, y1, x2, y2] of each object in pixels, around its whole outline.
        classes: each object's position in `CLASS_NAMES`.
        instances: at each pixel, 1 + the number of the object that covers most of it; 0 for
            background and clutter.
    """

    image: UInt8[np.ndarray, "size size 3"]
    boxes: Float32[np.ndarray, "objects 4"]
    classes: Int32[np.ndarray, " objects"]
    instances: UInt8[np.ndarray, "size size"]

    @cached_property
    def label(self) -> int:
        """The class of the object with the largest box."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return int(self.classes[np.argmax(sides.prod(axis=-1))])

    @cached_property
    def tags(self) -> Bool[np.ndarray, " classes"]:
        """The classes of the scene's objects, as booleans."""
        return np.isin(np.arange(len(CLASS_NAMES)), self.classes)

    @cached_property
    def mask(self) -> UInt8[np.ndarray, "size size"]:
        """The class mask: 1 + the class of the object at each pixel, 0 for background."""
        return np.concatenate([[0], self.classes + 1]).astype(np.uint8)[self.instances]


def scene(
    seed: int,
    index: int,
    image_size: int = 64,
    *,
    split: Split = "train",
    objects: tuple[int, int] = (1, 1),
    clutter: tuple[int, int] = (2, 7),
) -> Scene:
    """Draw one scene: objects, clutter, textures, light, shadow and noise.

    Args:
        seed: the run's seed.
        index: the number of the scene, from 0.
        image_size: the side of the picture in pixels.
        split: the split; splits share no scenes.
        objects: the least and the largest number of objects. A single object is large; several
            share the space, and those without space are not drawn.
        clutter: the least and the largest number of small shapes that are no objects, behind and
            in front of the objects.

    Returns:
        The scene, with at least one object.
    """
    rng = np.random.default_rng([seed, _STREAMS[split], index])
    placed = _place(rng, image_size, int(rng.integers(*objects, endpoint=True)))
    marks = int(rng.integers(*clutter, endpoint=True))
    canvas = _Canvas(rng, image_size)
    # A third of the clutter lies in front of the objects and hides small parts of them.
    canvas.scatter(marks - marks // 3)
    for number, (_, contours) in enumerate(placed, start=1):
        canvas.draw(contours, number)
    canvas.scatter(marks // 3)
    return Scene(
        image=canvas.picture(),
        boxes=np.stack([_box(contours) for _, contours in placed]).astype(np.float32),
        classes=np.array([kind for kind, _ in placed], np.int32),
        instances=canvas.instances,
    )


class ShapesSource:
    """Classification on scenes with one large shape: `image` and its `label`.

    Attributes:
        class_names: the shapes.
    """

    class_names = CLASS_NAMES
    drawn = True
    """Reading draws a scene, which takes as long as a hundred copies of it: it is kept."""

    def __init__(self, split: Split, seed: int, image_size: int):
        self._split: Split = split
        self._seed = seed
        self._image_size = image_size

    def __len__(self) -> int:
        return EXAMPLES_PER_EPOCH[self._split]

    def __getitem__(self, index: int) -> Example:
        drawn = scene(self._seed, index, self._image_size, split=self._split)
        return {"image": drawn.image, "label": np.int32(drawn.label)}

    def classes(self, index: int) -> Int32[np.ndarray, "1"]:
        """Return the label alone."""
        return np.array([self[index]["label"]])

    def describe(self, index: int) -> str:
        return f"shapes {self._split}[{index}]"


def open_shapes(argument: str, split: Split, settings: Settings) -> ShapesSource:
    """Open the built-in scenes: `shapes`, drawn at `settings.image_size`.

    Raises:
        UserError: an argument follows `shapes`, or `image_size` is too small.
    """
    if argument:
        raise UserError(f"--data shapes:{argument}: shapes takes no argument")
    if settings.holdout_groups is not None:
        raise UserError("--holdout-groups: shapes has no file names to group, so omit it")
    if settings.image_size < MINIMUM_SIZE:
        raise UserError(
            f"--image-size {settings.image_size}: shapes needs at least {MINIMUM_SIZE} pixels"
        )
    return ShapesSource(split, settings.seed, settings.image_size)


def _turned(
    kind: int, centre: np.ndarray, radius: float, angle: float, stretch: float = 1.0
) -> Contours:
    """Transform a class's outline to pixels: stretch along its own axes, scale, rotate, move."""
    x, y = radius * math.cos(angle), radius * math.sin(angle)
    matrix = np.array([[x * stretch, y * stretch], [-y / stretch, x / stretch]])
    return tuple(outline @ matrix + centre for outline in _OUTLINES[CLASS_NAMES[kind]])


def _place(rng: np.random.Generator, size: int, count: int) -> list[tuple[int, Contours]]:
    """Place up to `count` objects in the picture with little overlap: classes and outlines."""
    smallest, largest = (0.26, 0.42) if count == 1 else (0.13, 0.24)
    placed: list[tuple[int, Contours]] = []
    boxes: list[list[float]] = []
    for _ in range(count):
        kind = int(rng.integers(len(CLASS_NAMES)))
        radius = size * rng.uniform(smallest, largest)
        angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.87, 1.15)
        contours = _turned(kind, np.zeros(2), radius, angle, stretch)
        # Plain numbers, because NumPy is slow for arrays of four.
        left, top, right, bottom = _box(contours).tolist()
        for _ in range(20):
            # At any place that keeps the whole outline in the picture.
            across, down = rng.random(2).tolist()
            x = -left + across * (size - right + left)
            y = -top + down * (size - bottom + top)
            moved = [left + x, top + y, right + x, bottom + y]
            if all(_overlap(moved, other) < 0.15 for other in boxes):
                placed.append((kind, tuple(contour + np.array([x, y]) for contour in contours)))
                boxes.append(moved)
                break
    return placed


def _box(contours: Contours) -> np.ndarray:
    # The first contour is the outer one.
    return np.concatenate([contours[0].min(axis=0), contours[0].max(axis=0)])


def _overlap(box: list[float], other: list[float]) -> float:
    """Compute the shared area as a fraction of the smaller box."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(width, 0.0) * max(height, 0.0) / min(areas)


class _Canvas:
    """The picture while it is drawn: a textured background, then shape over shape.

    Attributes:
        instances: the number of the object visible at each pixel, 0 for none.
    """

    def __init__(self, rng: np.random.Generator, size: int):
        self._rng = rng
        self._size = size
        self._luminance = rng.uniform(0.2, 0.8)
        self._shadow = rng.uniform(-0.04, 0.04, 2) * size
        low, high = self._luminance - 0.08, self._luminance + 0.08
        self._image = _textured(rng, size, (0, 0, size, size), low, high)
        self.instances = np.zeros((size, size), np.uint8)

    def draw(self, contours: Contours, number: int) -> None:
        """Draw an object with a texture and a shadow over the picture."""
        reach = np.abs(self._shadow).max() + 2
        box = _box(contours)
        x1, y1 = (int(edge) for edge in np.clip(np.floor(box[:2] - reach), 0, self._size))
        x2, y2 = (int(edge) for edge in np.clip(np.ceil(box[2:] + reach), 0, self._size))
        view = self._image[y1:y2, x1:x2]
        coverage = _coverage(contours, (x1, y1, x2, y2))
        move = np.array([[1, 0, self._shadow[0]], [0, 1, self._shadow[1]]])
        shadow = cv2.blur(cv2.warpAffine(coverage, move, (x2 - x1, y2 - y1)), (3, 3))
        shadow *= 0.4
        below = cv2.blendLinear(view, np.zeros_like(view), 1 - shadow, shadow)
        colours = _textured(self._rng, self._size, (x1, y1, x2, y2), *self._contrasting())
        view[:] = cv2.blendLinear(below, colours, 1 - coverage, coverage)
        self.instances[y1:y2, x1:x2][coverage >= 0.5] = number

    def scatter(self, count: int) -> None:
        """Draw small plain shapes of any class at any place."""
        kinds = self._rng.integers(len(CLASS_NAMES), size=count).tolist()
        chance = self._rng.random((count, 4))
        centres = chance[:, :2] * self._size
        radii = (0.035 + 0.045 * chance[:, 2]) * self._size
        angles = 2 * np.pi * chance[:, 3]
        for kind, centre, radius, angle in zip(kinds, centres, radii, angles, strict=True):
            colour = _colour(self._rng, *self._contrasting()).tolist()
            points = _fixed_point(_turned(kind, centre, radius, angle), (0, 0), 1)
            cv2.fillPoly(self._image, points, colour, cv2.LINE_AA, _FRACTION_BITS)
            cv2.fillPoly(self.instances, points, 0, shift=_FRACTION_BITS)

    def _contrasting(self) -> tuple[float, float]:
        """Choose a range of luminance that is darker or brighter than the background."""
        darkest, darker = 0.1, self._luminance - 0.25
        brighter, brightest = self._luminance + 0.25, 1.0
        room = max(darker - darkest, 0), max(brightest - brighter, 0)
        if self._rng.random() * sum(room) < room[0]:
            return darkest, darker
        return brighter, brightest

    def picture(self) -> UInt8[np.ndarray, "size size 3"]:
        """Return the drawn picture with uneven light and camera noise."""
        slope_x, slope_y, strength = self._rng.random(3).tolist()
        centred = np.linspace(-0.3, 0.3, self._size, dtype=np.float32)
        light = 1 + np.add.outer(centred * (slope_y - 0.5), centred * (slope_x - 0.5))
        noise = self._rng.standard_normal(light.shape, np.float32) * (2 + 8 * strength)
        # Channel by channel, because NumPy is slow for a short last axis.
        channels = self._image.transpose(2, 0, 1) * light + noise
        return cv2.merge(list(np.clip(channels, 0, 255).astype(np.uint8)))


def _fixed_point(
    contours: Contours, origin: tuple[int, int], scale: int
) -> list[Int32[np.ndarray, "vertices 2"]]:
    """Convert outlines to OpenCV's fixed-point coordinates, with whole numbers at pixel centres."""
    one = 2**_FRACTION_BITS
    move, centre = np.array(origin), one / 2
    return [np.rint((c - move) * (scale * one) - centre).astype(np.int32) for c in contours]


def _coverage(
    contours: Contours, window: tuple[int, int, int, int]
) -> Float32[np.ndarray, "height width"]:
    """Compute the covered fraction, 0 to 1, of each pixel in a window [x1, y1, x2, y2]."""
    x1, y1, x2, y2 = window
    fine = np.zeros(((y2 - y1) * _SUPERSAMPLING, (x2 - x1) * _SUPERSAMPLING), np.uint8)
    points = _fixed_point(contours, (x1, y1), _SUPERSAMPLING)
    cv2.fillPoly(fine, points, 255, shift=_FRACTION_BITS)
    small = cv2.resize(fine, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
    return small * np.float32(1 / 255)


def _textured(
    rng: np.random.Generator,
    size: int,
    window: tuple[int, int, int, int],
    low: float,
    high: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """Mix two colours within a range of luminance by a pattern."""
    first, second = _colour(rng, low, high), _colour(rng, low, high)
    between = (first + _RAMP * (second - first)).astype(np.uint8)
    pattern = (_pattern(rng, size, window) * 255).astype(np.uint8)
    return cv2.applyColorMap(pattern, between)


def _colour(rng: np.random.Generator, low: float, high: float) -> Float32[np.ndarray, "3"]:
    """Draw a colour of any hue, 0 to 255, whose luminance (0 to 1) lies in the range."""
    hue, chance, place = rng.random(3)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.1 + 0.8 * chance, 1.0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    wanted = low + place * (high - low)
    colour = np.array([red, green, blue], np.float32)
    if wanted <= luminance:
        return colour * np.float32(255 * wanted / luminance)
    # Brighter than the pure hue: mix with white.
    return 255 - (1 - colour) * np.float32(255 * (1 - wanted) / (1 - luminance))


def _pattern(
    rng: np.random.Generator, size: int, window: tuple[int, int, int, int]
) -> Float32[np.ndarray, "height width"]:
    """Draw clouds, a gradient, stripes, checks or dots, rotated at random; values 0 to 1."""
    x1, y1, x2, y2 = window
    kind = rng.integers(5)
    if kind == 0:
        cells = rng.random((rng.integers(3, 9),) * 2, np.float32)
        return cv2.resize(cells, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    angle, phase, second_phase = rng.uniform(0, 2 * np.pi, 3).tolist()
    frequency = 2 * np.pi / (size * rng.uniform(0.09, 0.22))
    if kind == 1:
        frequency /= 8
    x, y = math.cos(angle) * frequency, math.sin(angle) * frequency
    columns, rows = np.arange(x1, x2, dtype=np.float32), np.arange(y1, y2, dtype=np.float32)
    first = np.sin(np.add.outer(rows * y, columns * x + phase))
    if kind == 1:
        return first * 0.5 + 0.5
    if kind == 2:
        edges = first
    else:
        second = np.sin(np.add.outer(rows * x, columns * -y + second_phase))
        # The product of two waves makes checks, their sum above a threshold dots.
        edges = first * second * 2 if kind == 3 else first + second - 0.7
    return np.clip(edges * 2 + 0.5, 0, 1)
