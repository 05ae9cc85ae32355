"""Small XML files: elements with their lines, in any known encoding, without entities."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from cnn_jax.errors import UserError
from cnn_jax.reading import MIB, decode_text, read_bytes

MOST_BYTES = 64 * MIB

_DEEPEST = 100
_MOST_ELEMENTS = 200_000

_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*[\"']([A-Za-z][\w.:-]*)[\"']")

# Files declare these and hold characters of their supersets, which differ in nothing else.
_SUPERSETS = {
    "gb2312": "gb18030",
    "gb_2312-80": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
}


@dataclass(slots=True)
class Element:
    """An XML element: its first line, its text and its children.

    Attributes:
        tag: its name.
        line: the line on which it begins.
        text: the text directly within it.
        children: the elements directly within it.
    """

    tag: str
    line: int
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def find(self, tag: str) -> "Element | None":
        """The first child of this name."""
        return next((child for child in self.children if child.tag == tag), None)


def read_xml(path: Path) -> Element:
    """Read an XML file and return its root, with the line of each element.

    The encoding is that of a byte-order mark, else the declared one, else UTF-8.

    Raises:
        UserError: the file cannot be read, is not well-formed, is not in its encoding or in one
            that is unknown, declares entities, or is nested too deeply or too large for a file of
            boxes; the message names the file and the line.
    """
    data = read_bytes(path, MOST_BYTES)
    text = decode_text(data, str(path), _encoding(data))
    return _parse(text, path)


def _encoding(data: bytes) -> str | None:
    """The encoding without a byte-order mark, as XML 1.0 finds it (appendix F)."""
    for start, name in ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be")):
        if data.startswith(start):
            return name
    declared = _DECLARATION.match(data)
    if declared is None:
        return None
    name = declared[1].decode("ascii").lower()
    # A declaration that was just read byte by byte is not in two bytes a character.
    if name.startswith(("utf-16", "utf16", "ucs-2", "iso-10646-ucs", "utf-32")):
        return None
    return _SUPERSETS.get(name, name)


def _parse(text: str, path: Path) -> Element:
    top = Element("", 0)
    stack, texts = [top], [[]]
    count = 0
    # The text is UTF-8 from here on, whatever its declaration says.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True

    def refuse(problem: str) -> None:
        raise UserError(f"{path}:{parser.CurrentLineNumber}: {problem}")

    def start(tag: str, _: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(stack) > _DEEPEST or count > _MOST_ELEMENTS:
            refuse("nested too deeply" if len(stack) > _DEEPEST else "too many elements")
        element = Element(tag, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)
        texts.append([])

    def end(_: str) -> None:
        stack.pop().text = "".join(texts.pop())

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = lambda data: texts[-1].append(data)
    # Entities may name files or grow without bound, and no file of boxes needs its own.
    parser.EntityDeclHandler = lambda *_: refuse("declares an entity, which is not read")
    parser.SkippedEntityHandler = lambda name, _: refuse(f"entity &{name}; is not known")
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise UserError(f"{path}:{error.lineno}: not well-formed XML ({reason})") from None
    return top.children[0]
