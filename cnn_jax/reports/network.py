"""The graph of a network as a picture (SVG): blocks from the input down, and what reads what.

A block stands further to the right the coarser its maps are, so that an encoder and a decoder make
a V, and what skips the blocks between runs down on their left.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from cnn_jax.models.graph import INPUT, Block, Graph, Unit
from cnn_jax.models.summary import with_prefix
from cnn_jax.reports.html import Html, join, tag

_WIDTH, _ROW, _GAP, _PAD, _TOP = 900, 20, 22, 8, 78
_LEFT, _STEP, _LANE = 44, 22, 9
_OUTPUT, _PARAMETERS, _ARITHMETIC, _BAR = 600, 690, 790, 802
# Blocks of more units of one kind are one row.
_MOST_ROWS = 4

# The colours are those of pages.
_STYLE = """
.network { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  --ink: #1c2126; --soft: #667079; --line: #c9d0d8; --fill: #f6f7f9; --paper: #ffffff;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) { .network { --ink: #e4e8eb; --soft: #98a2ab; --line: #454d55;
  --fill: #1e2327; --paper: #14171a; --mark: #5aa9e6; } }
.network text { fill: var(--ink); font-size: 12px; } .network .soft { fill: var(--soft); }
.network .title { font-size: 16px; font-weight: 600; } .network .end { text-anchor: end; }
.network .paper { fill: var(--paper); } .network .name { font-weight: 600; }
.network .block { fill: var(--fill); stroke: var(--line); }
.network .ends { fill: none; stroke: var(--soft); }
.network .unused { fill: none; stroke: var(--line); stroke-dasharray: 4 3; }
.network .edge { fill: none; stroke: var(--soft); stroke-width: 1.3; }
.network .skip { fill: none; stroke: var(--mark); stroke-width: 1.6; }
.network .head { fill: var(--soft); } .network .skip-head { fill: var(--mark); }
.network .bar { fill: var(--mark); opacity: .75; }
"""


@dataclass(frozen=True)
class NetworkPicture:
    """A section with the picture of a network.

    Attributes:
        title: the heading.
        svg: the content of the file that `draw` makes.
    """

    title: str
    svg: bytes

    def html(self) -> Html:
        note = (
            "A block stands further to the right the coarser its maps are. Blue lines skip blocks. "
            "Bars are the share of the multiply-adds of one example."
        )
        # As a picture, whatever the file holds stays apart from the page.
        address = f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"
        picture = tag("img", src=address, alt="the network", class_="network")
        # An image element has no end tag.
        return join([tag("p", note, class_="note"), Html(picture.removesuffix("</img>"))])


@dataclass(frozen=True)
class _Card:
    """A block's place.

    Attributes:
        left, top, height: of its frame.
        rows: a line of text for each unit, or for all of one kind.
    """

    left: float
    top: float
    height: float
    rows: Sequence[Unit]

    @property
    def bottom(self) -> float:
        return self.top + self.height


def draw(graph: Graph, title: str) -> str:
    """Draw a network as an SVG file.

    Args:
        graph: the network.
        title: the heading, such as its name.
    """
    shapes = [("input", graph.input), *((None, ()) for _ in graph.blocks), ("output", graph.output)]
    rows = [[Unit(n, "", s, 0, 0)] if n else [] for n, s in shapes]
    rows[1:-1] = [_rows(block) for block in graph.blocks]
    lanes = _lanes(graph)
    first = float(_LEFT + _LANE * max([0, *lanes.values()]))
    levels = [0, *(block.level for block in graph.blocks), 0]
    cards, top = [], float(_TOP)
    for units, level in zip(rows, levels, strict=True):
        height = float(len(units) * _ROW + _PAD)
        cards.append(_Card(first + _STEP * level, top, height, units))
        top += height + _GAP
    largest = max((unit.multiply_adds for row in rows for unit in row), default=0)
    parts = [
        *_heading(graph, title),
        *(part for i, card in enumerate(cards) for part in _card(card, i, len(cards), largest)),
        *_arrows(graph, cards, lanes, first),
    ]
    height = top - _GAP + 14
    return tag(
        "svg",
        tag("style", Html(_STYLE)),
        tag("rect", class_="paper", width=_WIDTH, height=height),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {height:g}",
        class_="network",
        role="img",
        aria_label=f"{title}: {_sizes(graph.input)} to {_sizes(graph.output)}",
    )


def _rows(block: Block) -> list[Unit]:
    """The units of a block; many of one kind as one."""
    units = block.units
    if len(units) <= _MOST_ROWS:
        return list(units)
    kinds = {unit.kind for unit in units}
    kind = next(iter(kinds)) if len(kinds) == 1 else "module"
    return [
        Unit(
            name=f"{units[0].name} … {units[-1].name.rpartition('/')[2]}",
            kind=f"{len(units)} x {kind}",
            output=units[-1].output,
            parameters=sum(unit.parameters for unit in units),
            multiply_adds=sum(unit.multiply_adds for unit in units),
        )
    ]


def _heading(graph: Graph, title: str) -> list[Html]:
    total = (
        f"{_sizes(graph.input)} → {_sizes(graph.output)}, {graph.parameters:,} parameters, "
        f"{with_prefix(graph.multiply_adds).strip()} multiply-adds an example"
    )
    columns = {"output": _OUTPUT, "parameters": _PARAMETERS, "multiply-adds": _ARITHMETIC}
    return [
        _text(20, 24, title, "title"),
        _text(20, 42, total, "soft"),
        *(_text(x, _TOP - 6, name, "soft end") for name, x in columns.items()),
    ]


def _card(card: _Card, number: int, count: int, largest: int) -> list[Html]:
    """The frame of a block, and its rows: name, kind, output, parameters, multiply-adds."""
    at_end = number in (0, count - 1)
    unused = not at_end and not any(unit.output for unit in card.rows)
    kind = "ends" if at_end else "unused" if unused else "block"
    width = _WIDTH - 12 - card.left
    parts = [
        tag("rect", class_=kind, x=card.left, y=card.top, width=width, height=card.height, rx=5)
    ]
    for index, unit in enumerate(card.rows):
        y = card.top + _PAD / 2 + (index + 0.5) * _ROW
        name = tag("tspan", unit.name, class_="name")
        described = tag("tspan", f"  {unit.kind}", class_="soft")
        parts += [
            tag("text", name, described, x=card.left + 10, y=y + 4),
            _text(_OUTPUT, y + 4, _sizes(unit.output), "end"),
        ]
        if at_end:
            continue
        parts += [
            _text(_PARAMETERS, y + 4, f"{unit.parameters:,}", "end"),
            _text(_ARITHMETIC, y + 4, with_prefix(unit.multiply_adds).strip(), "end"),
        ]
        long = (_WIDTH - 20 - _BAR) * unit.multiply_adds / max(largest, 1)
        if long:
            parts.append(tag("rect", class_="bar", x=_BAR, y=y - 4, width=long, height=8, rx=2))
    return parts


def _lanes(graph: Graph) -> dict[tuple[int, int], int]:
    """The lanes, from 0 on the right, of the edges that skip blocks: those of one place differ.

    A line keeps to the left of all blocks that it passes.
    """
    lanes: dict[tuple[int, int], int] = {}
    for start, end in sorted(_skips(graph), key=lambda edge: (edge[1] - edge[0], edge)):
        column = _column(graph, start, end)
        taken = {
            lane
            for (other, last), lane in lanes.items()
            if _column(graph, other, last) == column and other < end and start < last
        }
        lanes[start, end] = next(n for n in range(len(lanes) + 1) if n not in taken)
    return lanes


def _skips(graph: Graph) -> list[tuple[int, int]]:
    return [(start, end) for start, end in graph.edges if end != start + 1]


def _column(graph: Graph, start: int, end: int) -> int:
    """The least level of the blocks from one to the other."""
    low, high = sorted((start, end))
    return min(0 if n == INPUT else graph.blocks[n].level for n in range(low, high + 1))


def _arrows(
    graph: Graph, cards: Sequence[_Card], lanes: dict[tuple[int, int], int], first: float
) -> list[Html]:
    """Arrows between neighbours, and lines on the left where blocks are skipped."""
    neighbours = [(start, end) for start, end in graph.edges if end == start + 1]
    called = [i for i, block in enumerate(graph.blocks) if any(u.output for u in block.units)]
    # The last block that evaluation calls gives the output.
    last = [(called[-1], len(graph.blocks))] if called else []
    parts = []
    for start, end in [*neighbours, *last]:
        above, below = cards[start + 1], cards[end + 1]
        x = max(above.left, below.left) + 20
        line = f"M{x:g} {above.bottom:g}V{below.top - 5:g}"
        parts += [tag("path", class_="edge", d=line), _head(x, below.top, "head")]
    for (start, end), lane in lanes.items():
        above, below = cards[start + 1], cards[end + 1]
        x = first + _STEP * _column(graph, start, end) - 14 - _LANE * lane
        y, into = above.bottom - 9, below.top + 9
        line = f"M{above.left:g} {y:g}H{x + 6:g}Q{x:g} {y:g} {x:g} {y + 6:g}"
        line += f"V{into - 6:g}Q{x:g} {into:g} {x + 6:g} {into:g}H{below.left - 5:g}"
        tip = f"{below.left - 6:g},{into - 3.5:g} {below.left:g},{into:g}"
        tip += f" {below.left - 6:g},{into + 3.5:g}"
        parts += [
            tag("path", class_="skip", d=line),
            tag("polygon", class_="skip-head", points=tip),
        ]
    return parts


def _head(x: int | float, y: int | float, kind: str) -> Html:
    """The tip of an arrow that points down."""
    points = f"{x - 3.5:g},{y - 6:g} {x:g},{y:g} {x + 3.5:g},{y - 6:g}"
    return tag("polygon", class_=kind, points=points)


def _text(x: int | float, y: int | float, text: str, kind: str) -> Html:
    return tag("text", text, x=x, y=y, class_=kind)


def _sizes(shape: Sequence[int]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape))
