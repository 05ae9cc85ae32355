"""The style sheet of every page."""

# Line colours: Okabe and Ito's palette, distinct for colour-blind readers, in an order in
# which neighbours differ most; lighter for dark pages.
LIGHT_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b58900",
    "#56b4e9",
    "#7a5195",
    "#666666",
)
_DARK = ("#5aa9e6", "#ff8c42", "#3ecf9f", "#e59ac4", "#e6b422", "#8fd3ff", "#b794d6", "#aaaaaa")

LINE_COLORS = len(LIGHT_COLORS)


def _variables(colors: tuple[str, ...], **others: str) -> str:
    named = {**{f"c{i}": color for i, color in enumerate(colors)}, **others}
    return " ".join(f"--{name}: {value};" for name, value in named.items())


_LIGHT_VARIABLES = _variables(
    LIGHT_COLORS,
    page="#ffffff",
    card="#f6f7f9",
    text="#1c2126",
    faint="#667079",
    rule="#dfe3e8",
    right="#1a8f4c",
    wrong="#cf3030",
)
_DARK_VARIABLES = _variables(
    _DARK,
    page="#14171a",
    card="#1e2327",
    text="#e4e8eb",
    faint="#98a2ab",
    rule="#343b41",
    right="#46c37b",
    wrong="#ff6b63",
)

_RULES = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 20px 20px 60px; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust: 100%; }
h1 { font-size: 26px; line-height: 1.2; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 8px; }
p { margin: 8px 0; }
.lead { font-size: 18px; }
.note, figcaption, .key { color: var(--faint); font-size: 13px; }
pre { background: var(--card); padding: 10px 12px; border-radius: 6px; margin: 12px 0;
  font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
td:not(.n) { overflow-wrap: break-word; max-width: 22em; }
th { color: var(--faint); font-weight: 500; }
.n { text-align: right; white-space: nowrap; padding: 4px 0 4px 14px; }
summary { cursor: pointer; color: var(--faint); }
.charts { display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.charts figure { display: flex; flex-direction: column; justify-content: space-between; }
figure { margin: 0; break-inside: avoid; }
.key span { display: inline-block; margin-right: 14px; }
.key i { display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  margin: 0 6px 3px 0; }
.key b { font-weight: 500; color: var(--text); white-space: nowrap; }
.name { font-weight: 600; font-size: 14px; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 11px; }
svg .rule { stroke: var(--rule); }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .band { stroke: none; opacity: .18; }
.gallery { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(44%, 150px), 1fr)); }
.wide-pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.gallery figure { background: var(--card); border-radius: 6px; overflow: hidden;
  border-top: 4px solid var(--right); }
.gallery .wrong { border-color: var(--wrong); } .gallery .unjudged { border-color: var(--rule); }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; }
.pairs.gallery img { aspect-ratio: 2; }
.gallery .small { image-rendering: pixelated; }
.gallery figcaption { padding: 6px 9px 8px; line-height: 1.35; color: var(--text); }
.guess { display: flex; justify-content: space-between; gap: 8px; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.guess span { min-width: 0; } .guess span:last-child { flex: none; }
.guess + .guess { color: var(--faint); }
.guess.true { color: var(--right); } .guess.false { color: var(--wrong); }
.where { color: var(--faint); font-size: 11px; overflow-wrap: anywhere; }
.bars { columns: 300px; column-gap: 36px; }
.bar { display: grid; grid-template-columns: minmax(0, 1fr) 64px 8em; gap: 8px; font-size: 13px;
  align-items: center; break-inside: avoid; font-variant-numeric: tabular-nums; }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar div { background: var(--rule); height: 8px; border-radius: 2px; }
.bar div i { display: block; height: 8px; border-radius: 2px; background: var(--c0); }
.bar span:last-child { text-align: right; color: var(--faint); white-space: nowrap; }
img.network { display: block; width: 100%; max-width: 900px; }
.matrix text { fill: var(--text); }
.beside { display: flex; flex-wrap: wrap; gap: 10px 50px; }
.beside > * { max-width: 100%; }
.matrix .cell { fill: none; stroke: var(--rule); }
.matrix .hit { fill: var(--c0); } .matrix .miss { fill: var(--c1); }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  h2, h3, section > .note { break-after: avoid; }
  .charts { grid-template-columns: repeat(3, 1fr); }
  .gallery { grid-template-columns: repeat(7, 1fr); gap: 8px; }
  .wide-pictures { grid-template-columns: repeat(4, 1fr); }
  .pairs { grid-template-columns: repeat(2, 1fr); }
  .gallery figcaption { font-size: 9px; padding: 4px; }
  .wide { overflow: visible; } .matrix { max-width: 100%; }
  details { display: none; } section:has(> details) { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT_VARIABLES} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_DARK_VARIABLES} }} }}\n"
    f"@media print {{ :root {{ color-scheme: light; {_LIGHT_VARIABLES} }} }}"
) + _RULES
