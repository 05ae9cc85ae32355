"""Heat maps of attention: the source words that each word of a translation attends to."""

import contextlib
import io
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float

from cnn_jax.reports.html import Html, join, tag

# Fonts for the scripts that DejaVu Sans (matplotlib's own) lacks, used if they are installed.
FALLBACK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC"),
    *("Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS", "Noto Sans"),
)

CELL, FONT = 24, 13


@dataclass(frozen=True)
class Alignment:
    """A translation with its attention weights.

    Attributes:
        source: the words of the source sentence.
        target: the words of the translation.
        weights: rows are words of the translation; each sums to one over the source words.
        note: the line below.
    """

    source: Sequence[str]
    target: Sequence[str]
    weights: Float[np.ndarray, "target source"]
    note: str = ""

    def html(self) -> Html:
        """Draw the heat map as SVG; hovering over a cell shows its weight."""
        left, top = (_width(words) + 12 for words in (self.target, self.source))
        width, height = left + len(self.source) * CELL, top + len(self.target) * CELL
        parts = []
        for j, word in enumerate(self.source):
            middle = left + (j + 0.5) * CELL
            turn = f"rotate(-90 {middle} {top})"
            place = {"x": middle + 6, "y": top + FONT * 0.35}
            parts.append(tag("text", visible(word), **place, transform=turn, style=_STYLE))
        for i, word in enumerate(self.target):
            place = {"x": left - 6, "y": top + (i + 0.5) * CELL + FONT * 0.35}
            parts.append(tag("text", visible(word), **place, text_anchor="end", style=_STYLE))
        for (i, j), weight in np.ndenumerate(self.weights):
            if weight < 0.005:
                continue
            place = {"x": left + j * CELL, "y": top + i * CELL, "width": CELL - 1}
            tip = tag("title", f"{self.target[i]} ← {self.source[j]}: {weight:.2f}")
            opacity = float(weight)
            cell = tag("rect", tip, **place, height=CELL - 1, class_="hit", fill_opacity=opacity)
            parts.append(cell)
        frame = {"x": left, "y": top, "width": width - left, "height": height - top}
        parts.append(tag("rect", **frame, class_="cell", pointer_events="none"))
        style = f"width:{width}px"
        drawing = tag("svg", *parts, viewBox=f"0 0 {width} {height}", class_="matrix", style=style)
        note = tag("p", self.note, class_="note") if self.note else Html()
        return tag("div", tag("div", drawing, class_="wide"), note)


@dataclass(frozen=True)
class Alignments:
    """A section of heat maps.

    Attributes:
        title: the heading.
        maps: the translations.
    """

    title: str
    maps: Sequence[Alignment]

    def html(self) -> Html:
        text = "Columns are source words, rows are words of the translation; each row sums to one."
        drawn = tag("div", *(each.html() for each in self.maps), class_="beside")
        return join([tag("p", text, class_="note"), drawn])


def draw(alignment: Alignment) -> tuple[bytes, str]:
    """Draw the heat map as a PNG file; also return the characters that no installed font has."""
    # Imported here because matplotlib takes longer to load than the rest of a report.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    words = [*map(visible, alignment.source)], [*map(visible, alignment.target)]
    families, missing = fonts_for("".join("".join(side) for side in words))
    rows, columns = len(words[1]), len(words[0])
    size = (1.2 + 0.32 * columns + 0.09 * max(map(len, words[1]), default=0), 1.2 + 0.32 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(alignment.weights, cmap="Greys", vmin=0, vmax=1, aspect="equal")
    axes.xaxis.tick_top()
    # A dollar sign would start a formula.
    source, target = ([w.replace("$", r"\$") for w in side] for side in words)
    axes.set_xticks(range(columns), source, family=families)
    for label in axes.get_xticklabels():
        label.set_rotation(90 if len(label.get_text()) > 2 else 0)
    axes.set_yticks(range(rows), target, family=families)
    axes.tick_params(length=0)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters without a font are drawn as boxes and returned to the caller.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue(), missing


def fonts_for(text: str) -> tuple[list[str], str]:
    """Select installed fonts that show the text together; also return the characters they lack."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    families, lacking = [], {ord(c) for c in text if not c.isspace()}
    for family in ("DejaVu Sans", *FALLBACK_FONTS):
        if not lacking:
            break
        if family in installed_fonts(again=bool(families)):
            path = fontManager.findfont(FontProperties(family=family))
            known = lacking & get_font(path).get_charmap().keys()
            if known:
                families.append(family)
                lacking -= known
    return families or ["DejaVu Sans"], "".join(map(chr, sorted(lacking)))


@cache
def installed_fonts(again: bool = False) -> frozenset[str]:
    """List the font families that matplotlib knows.

    Args:
        again: whether to look for fonts installed after matplotlib first made its list.
    """
    from matplotlib.font_manager import findSystemFonts, fontManager

    if again:
        listed = {str(font.fname) for font in fontManager.ttflist}
        for path in findSystemFonts():
            if path not in listed:
                # matplotlib cannot read certain formats, such as bitmaps of emoji.
                with contextlib.suppress(RuntimeError, OSError, ValueError):
                    fontManager.addfont(path)
    return frozenset(font.name for font in fontManager.ttflist)


def visible(word: str) -> str:
    """Make a word's spaces visible."""
    return word.replace(" ", "\u2423")


_STYLE = f"font-size:{FONT}px"


def _width(words: Sequence[str]) -> int:
    """Estimate the width of the widest word in pixels."""

    def em(word: str) -> float:
        return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.62 for c in word)

    return round(FONT * max(map(em, words), default=0))
