"""Mutations of a data set's files: of bytes, of structure, and of the folder itself."""

import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Random = np.random.Generator

NUMBERS = (
    "nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", "9" * 5000, "2147483648", "-2147483649",
    "1_000", "0x10", "1e30", "-0.0", "", "3.7", "18446744073709551616", "١٢", "½",
)  # fmt: skip
WORDS = (
    "", " ", "x" * 100_000, "\\ud800", "a\tb", "../../../../etc/passwd", "/dev/zero", "/dev/stdin",
    "naïve", "नमस्ते", "\u202e", "null", "true", "[]", "{}", "\x00", "\x1b[31m", "%s%n", "a,b;c|d",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "1",
    [], [None], [[[]]], {}, {"a": 1}, "/dev/zero", [1e308] * 4, ["a", "b"], -0.5, 2**63,
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-8-sig", "latin-1", "gb18030", "utf-32", "cp1252", "shift_jis")


def mutate(folder: Path, rng: Random) -> str:
    """Change one file, or the folder, of a data set; return what was done."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size < 2**20)
    if not files:
        return "nothing left to change"
    file = files[rng.integers(len(files))]
    content = file.read_bytes()
    choices: list[Callable[[Path, bytes, Random], str]] = [*BYTES, *FILES]
    if is_text(content):
        choices += TEXT * 3
        if file.suffix == ".json":
            choices += JSON * 4
        if file.suffix == ".xml":
            choices += XML * 2
        if file.suffix in (".yaml", ".yml"):
            choices += YAML * 2
    elif content.startswith(b"\x89PNG"):
        choices += PNG * 2
    change = choices[rng.integers(len(choices))]
    done = change(file, content, rng)
    return f"{file.relative_to(folder)}: {change.__name__.replace('_', ' ').strip()} {done}".strip()


def is_text(content: bytes) -> bool:
    """Tell whether a file holds text."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


# Bytes


def truncate(file: Path, content: bytes, rng: Random) -> str:
    end = int(rng.integers(len(content) + 1))
    file.write_bytes(content[:end])
    return f"at {end}"


def flip_bits(file: Path, content: bytes, rng: Random) -> str:
    data = bytearray(content or b"x")
    places = rng.integers(len(data), size=rng.integers(1, 9))
    for place in places:
        data[place] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    return f"at {places.tolist()}"


def insert_bytes(file: Path, content: bytes, rng: Random) -> str:
    place = int(rng.integers(len(content) + 1))
    file.write_bytes(content[:place] + rng.bytes(int(rng.integers(1, 64))) + content[place:])
    return f"at {place}"


def delete_bytes(file: Path, content: bytes, rng: Random) -> str:
    first, last = sorted(rng.integers(len(content) + 1, size=2).tolist())
    file.write_bytes(content[:first] + content[last:])
    return f"{first} to {last}"


def repeat_bytes(file: Path, content: bytes, rng: Random) -> str:
    first, last = sorted(rng.integers(len(content) + 1, size=2).tolist())
    file.write_bytes(content[:last] + content[first:])
    return f"{first} to {last}"


def garbage(file: Path, content: bytes, rng: Random) -> str:
    file.write_bytes(rng.bytes(int(rng.integers(1, 4096))))
    return ""


def zero_bytes(file: Path, content: bytes, rng: Random) -> str:
    file.write_bytes(bytes(max(1, len(content))))
    return ""


def append_garbage(file: Path, content: bytes, rng: Random) -> str:
    file.write_bytes(content + rng.bytes(100))
    return ""


def empty(file: Path, content: bytes, rng: Random) -> str:
    file.write_bytes(b"")
    return ""


BYTES = [
    truncate, flip_bits, insert_bytes, delete_bytes, repeat_bytes, garbage, zero_bytes,
    append_garbage, empty,
]  # fmt: skip


# Files and folders


def remove(file: Path, content: bytes, rng: Random) -> str:
    file.unlink()
    return ""


def replace_by_folder(file: Path, content: bytes, rng: Random) -> str:
    file.unlink()
    file.mkdir()
    return ""


def replace_by_pipe(file: Path, content: bytes, rng: Random) -> str:
    file.unlink()
    os.mkfifo(file)
    return ""


def replace_by_link(file: Path, content: bytes, rng: Random) -> str:
    target = (file.name, "/dev/zero", "/nowhere", "..", "/dev/stdin")[rng.integers(5)]
    file.unlink()
    file.symlink_to(target)
    return f"to {target}"


def loop_of_links(file: Path, content: bytes, rng: Random) -> str:
    link = file.with_name("loop")
    if not link.is_symlink():
        link.symlink_to(file.parent, target_is_directory=True)
    return ""


def rename(file: Path, content: bytes, rng: Random) -> str:
    names = (
        file.name.upper(), f"{file.stem}.", f"a b{file.suffix}", f"नम{file.suffix}",
        os.fsdecode(b"\xff\xfe" + file.suffix.encode()), f"a\nb{file.suffix}", f"._{file.name}",
        "x" * 200 + file.suffix, f"-{file.name}", f"{file.stem}.gif",
    )  # fmt: skip
    name = names[rng.integers(len(names))]
    file.rename(file.with_name(name))
    return f"to {name!r}"


def copy_beside(file: Path, content: bytes, rng: Random) -> str:
    ending = (".png", ".jpg", ".txt", ".xml", "")[rng.integers(5)]
    file.with_name(f"{file.stem}{'' if ending != file.suffix else '2'}{ending}").write_bytes(
        content
    )
    return f"as {ending or 'a file without an ending'}"


def swap_with_another(file: Path, content: bytes, rng: Random) -> str:
    others = sorted(p for p in file.parent.iterdir() if p.is_file())
    other = others[rng.integers(len(others))]
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return f"{other.name}"


def enlarge(file: Path, content: bytes, rng: Random) -> str:
    size = (2**31, 2**33, 2**42)[rng.integers(3)]
    os.truncate(file, size)
    return f"to {size} bytes, zeros that take no space"


FILES = [
    remove, replace_by_folder, replace_by_pipe, replace_by_link, loop_of_links, rename, copy_beside,
    swap_with_another, enlarge,
]  # fmt: skip


# Text


def change_number(file: Path, content: bytes, rng: Random) -> str:
    return _replace_match(file, content, rng, _NUMBER, NUMBERS)


def change_word(file: Path, content: bytes, rng: Random) -> str:
    return _replace_match(file, content, rng, _WORD, WORDS)


def change_mark(file: Path, content: bytes, rng: Random) -> str:
    return _replace_match(file, content, rng, _MARK, ("", ",", "\t", "\n", '"', "<", ">", "]", ":"))


def shuffle_lines(file: Path, content: bytes, rng: Random) -> str:
    lines = content.split(b"\n")
    i, j = rng.integers(len(lines), size=2).tolist()
    match rng.integers(3):
        case 0:
            lines[i], lines[j] = lines[j], lines[i]
            done = f"{i + 1} and {j + 1} swapped"
        case 1:
            lines.insert(j, lines[i])
            done = f"{i + 1} twice"
        case _:
            del lines[i]
            done = f"{i + 1} removed"
    file.write_bytes(b"\n".join(lines))
    return done


def reencode(file: Path, content: bytes, rng: Random) -> str:
    encoding = ENCODINGS[rng.integers(len(ENCODINGS))]
    text = content.decode().replace("a", "ä" if rng.integers(2) else "a")
    file.write_bytes(text.encode(encoding, "replace"))
    return f"in {encoding}"


def change_line_ends(file: Path, content: bytes, rng: Random) -> str:
    end = (b"\r", b"\r\n", b"\n\n", b"\x0b", "\u2028".encode())[rng.integers(5)]
    file.write_bytes(content.replace(b"\n", end))
    return f"to {end!r}"


def nest_deeply(file: Path, content: bytes, rng: Random) -> str:
    opening, closing = (("[", "]"), ("{", "}"), ("<a>", "</a>"), ('{"a":', "}"), ("(", ")"))[
        rng.integers(5)
    ]
    depth = int(10 ** rng.uniform(2, 5.5))
    nested = opening * depth + closing * depth
    place = int(rng.integers(len(content) + 1)) * int(rng.integers(2))
    file.write_bytes(content[:place] + nested.encode() + content[place:])
    return f"{depth} of {opening} at {place}"


def lengthen(file: Path, content: bytes, rng: Random) -> str:
    lines = content.split(b"\n")
    number = int(rng.integers(len(lines)))
    lines[number] *= max(1, 10**6 // max(1, len(lines[number])))
    file.write_bytes(b"\n".join(lines))
    return f"line {number + 1}"


TEXT = [
    change_number, change_number, change_word, change_word, change_mark, shuffle_lines, reencode,
    change_line_ends, nest_deeply, lengthen,
]  # fmt: skip


_NUMBER = rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_WORD = rb"[^\W\d]\w*"
_MARK = rb"[^\w\s]|[\t ]"


def _replace_match(
    file: Path, content: bytes, rng: Random, pattern: bytes, values: tuple[str, ...]
) -> str:
    found = list(re.finditer(pattern, content))
    if not found:
        return append_garbage(file, content, rng)
    match = found[rng.integers(len(found))]
    value = values[rng.integers(len(values))]
    file.write_bytes(content[: match.start()] + value.encode() + content[match.end() :])
    return f"{match[0][:40]!r} at {match.start()} to {value[:40]!r}"


# JSON


def change_value(file: Path, content: bytes, rng: Random) -> str:
    """Replace, remove or repeat a value anywhere in a JSON file."""
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        return append_garbage(file, content, rng)
    places: list[tuple[Any, Any, str]] = []

    def visit(node: Any, path: str) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            places.append((node, key, f"{path}[{key!r}]"))
            if isinstance(value, dict | list):
                visit(value, f"{path}[{key!r}]")

    if not isinstance(root, dict | list) or not root:
        return append_garbage(file, content, rng)
    visit(root, "")
    node, key, path = places[rng.integers(len(places))]
    action = int(rng.integers(6))
    if action == 0:
        del node[key]
        done = "removed"
    elif action == 1 and isinstance(node, list):
        node.append(node[key])
        done = "twice"
    elif action == 2 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
        done = "renamed"
    else:
        value = VALUES[rng.integers(len(VALUES))]
        node[key] = value
        done = f"= {str(value)[:40]!r}"
    file.write_text(json.dumps(root))
    return f"{path} {done}"


JSON = [change_value]


# XML and YAML


def declare_entities(file: Path, content: bytes, rng: Random) -> str:
    lines = "".join(
        f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "lol"}">' for i in range(12)
    ).encode()
    body = content[content.find(b"?>") + 2 :] if content.startswith(b"<?xml") else content
    name = body.strip().lstrip(b"<").split(b">")[0].split()[0]
    body = body.replace(b"<name>", b"<name>&e11;", 1)
    file.write_bytes(b"<!DOCTYPE " + name + b" [" + lines + b"]>" + body)
    return "of a billion"


def declare_encoding(file: Path, content: bytes, rng: Random) -> str:
    encoding = (
        "gb2312", "shift_jis", "utf-16", "latin-1", "klingon", "hex", "", "utf-7", "ebcdic-cp-be",
    )[rng.integers(9)]  # fmt: skip
    body = content[content.find(b"?>") + 2 :] if content.startswith(b"<?xml") else content
    file.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + body)
    return encoding


XML = [declare_entities, declare_encoding]


def repeat_aliases(file: Path, content: bytes, rng: Random) -> str:
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 10)]
    key = ("names: *b9", "train: *b9", "extra: *b9")[rng.integers(3)]
    file.write_bytes("\n".join([*lines, key, ""]).encode() + content)
    return key


def odd_yaml(file: Path, content: bytes, rng: Random) -> str:
    line = (
        "names: {0: a, x: b, 1.5: c}", "names: {0: a, 0: b}", "nc: 2024-99-99", "? [a]\n: b",
        "names: !!python/object/apply:os.system [true]", "names: no", "names: &a [*a]", "%YAML 9.9",
        "train: {a: b}", "path: [a, b]", "names: [a, a]", "\tnames: a", "--- 1\n--- 2",
    )[rng.integers(13)]  # fmt: skip
    file.write_bytes(content + f"\n{line}\n".encode() if rng.integers(2) else line.encode())
    return repr(line)


YAML = [repeat_aliases, odd_yaml]


# Images


def change_header(file: Path, content: bytes, rng: Random) -> str:
    """Give a PNG another size, depth or colour type, with the right checksum."""
    header = list(struct.unpack(">IIBBBBB", content[16:29]))
    field = int(rng.integers(4))
    sides = (0, 1, 2**16, 2**31 - 1, 2**32 - 1)
    header[field] = sides[rng.integers(5)] if field < 2 else int(rng.integers(256))
    chunk = b"IHDR" + struct.pack(">IIBBBBB", *header)
    file.write_bytes(content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:])
    return f"{header}"


def resize_image(file: Path, content: bytes, rng: Random) -> str:
    size = ((1, 1), (1, 500), (3000, 2), (13, 7))[rng.integers(4)]
    return _saved(file, lambda image: image.resize(size)) or f"to {size}"


def convert_image(file: Path, content: bytes, rng: Random) -> str:
    mode = ("1", "L", "P", "RGBA", "LA", "I;16", "RGB")[rng.integers(7)]
    converted = _saved(
        file, lambda image: (image.convert("L") if mode == "I;16" else image).convert(mode)
    )
    return converted or f"to {mode}"


def _saved(file: Path, change: Callable[[Image.Image], Image.Image]) -> str:
    """Change an image that no other mutation has damaged; say where it has."""
    try:
        with Image.open(file) as image:
            change(image).save(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "in vain, as it is damaged"
    return ""


PNG = [change_header, resize_image, convert_image]
