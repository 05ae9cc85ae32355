"""Reading of others' files: what is no regular file, no text, or a bomb ends with one line."""

import json
import os
import time

import pytest

from cnn_jax import reading
from cnn_jax.errors import UserError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("read", [reading.read_bytes, reading.read_text, reading.read_json])
def test_what_is_no_file_is_named(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in [
        (tmp_path / "pipe", "a named pipe"),
        (tmp_path, "a folder"),
        ("/dev/zero", "a device"),
    ]:
        with pytest.raises(UserError, match=f"{path}: is {kind}, not a file"):
            read(path)
    with pytest.raises(UserError, match="gone: cannot be read"):
        read(tmp_path / "gone")
    with pytest.raises(UserError, match="cannot be read"):
        read("a\0b")


def test_a_file_of_many_zero_bytes_is_not_read_whole(tmp_path):
    path = tmp_path / "sparse.json"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    start = time.monotonic()
    with pytest.raises(UserError, match="not text"):
        reading.read_json(path)
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes"):
        reading.read_bytes(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_declare_the_encoding(tmp_path, encoding):
    path = write(tmp_path / "a.txt", "naïve\nधन्यवाद\n".encode(encoding))
    assert reading.read_lines(path) == ["naïve", "धन्यवाद"]


def test_another_encoding_is_told_with_its_line(tmp_path):
    path = write(tmp_path / "a.txt", "a\nnaïve\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt:2: not text in utf-8 \(byte 0xef\)"):
        reading.read_text(path)
    assert reading.read_text(path, encoding="latin-1") == "a\nnaïve\n"
    assert reading.decode_text("猫".encode("gb2312"), "x", "gb2312") == "猫"
    for unknown in ("klingon", "hex", "rot13"):
        with pytest.raises(UserError, match=r"^x: "):
            reading.decode_text(b"abc", "x", unknown)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\rb\r", ["a", "b"]),
        ("a\rb\nc", ["a\rb", "c"]),
        ("a\u2028b\x0cc\n\n", ["a\u2028b\x0cc", ""]),
        ("", []),
        ("\n", [""]),
    ],
)
def test_only_line_ends_end_lines(text, lines):
    assert reading.split_lines(text) == lines


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "nested too deeply|not JSON"),
        ("[" * 50_000 + "]" * 50_000, "nested too deeply"),
        ('{"id": ' + "9" * 5_000 + "}", "not JSON"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"a": 1\n"b": 2}', "a.json:2: not JSON"),
        ("", "a.json:1: not JSON"),
    ],
)
def test_json_that_is_none(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        reading.read_json(write(tmp_path / "a.json", text))


def test_json_of_characters_beyond_the_first_plane(tmp_path):
    content = {"a": "😀"}
    assert reading.read_json(write(tmp_path / "a.json", json.dumps(content))) == content


def test_yaml_values_stay_as_written(tmp_path):
    path = write(tmp_path / "a.yaml", "names: [no, 1.0, 010, 2024-99-99, '~']\nval:\npath: null\n")
    assert reading.read_yaml(path) == {
        "names": ["no", "1.0", "010", "2024-99-99", "~"],
        "val": None,
        "path": None,
    }
    assert reading.read_yaml(write(tmp_path / "a.yaml", "a: &x [1]\nb: *x\n")) == {
        "a": ["1"],
        "b": ["1"],
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 20_000, "nested too deeply"),
        ("a0: &a0 [x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
        ), "aliases repeat too many values"),
        ("&a [*a]", "an alias within its own anchor"),
        ("? [1]\n: 2\n", "a key is no text"),
        ("a: [1\nb: 2", ":2: not YAML"),
        ("a: \x07", "not YAML"),
        ("x" * (2**20 + 1), "bytes; a file of this kind"),
    ],
)  # fmt: skip
def test_yaml_that_is_none_or_a_bomb(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        reading.read_yaml(write(tmp_path / "a.yaml", text))


def test_a_listing_passes_over_what_systems_leave_and_ends_in_loops(tmp_path):
    place = tmp_path / "data"
    (place / "b" / "c").mkdir(parents=True)
    (place / "@eaDir").mkdir()
    for name in ("a.jpg", "b/c/d.png", "._a.jpg", ".DS_Store", "Thumbs.db", "@eaDir/a.jpg"):
        write(place / name, "x")
    (place / "b" / "loop").symlink_to(place)
    (place / "b" / "again").symlink_to(place / "b" / "c")
    (place / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(place / "pipe")
    listing = reading.list_files(place)
    assert listing.files == ["a.jpg", "b/again/d.png", "b/c/d.png"]
    assert dict(listing.left_out) == {
        "link to a folder above it": 1,
        "broken link": 1,
        "named pipe": 1,
    }
    assert reading.list_files(place, "b/c").files == ["b/c/d.png"]
    assert reading.folders_in(place) == ["b"]
    assert reading.files_in(place) == ["a.jpg"]


def test_a_path_of_another_machine_is_found_by_its_last_parts(tmp_path):
    write(tmp_path / "a.jpg", "x")
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "a.jpg", "x")
    find = reading.existing_below
    assert find("/home/ann/set/train/a.jpg", tmp_path) == tmp_path / "train" / "a.jpg"
    assert find("C:\\set\\a.jpg", tmp_path) == tmp_path / "a.jpg"
    assert find("../train/a.jpg", tmp_path) == tmp_path / "train" / "a.jpg"
    assert find("/x/b.jpg", tmp_path) is None
