"""XML in any encoding, and XML that is made to do harm."""

import time

import pytest

from cnn_jax.data.formats import xml
from cnn_jax.data.formats.xml import read_xml
from cnn_jax.errors import UserError


def read(tmp_path, content):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    return read_xml(path)


@pytest.mark.parametrize(
    ("encoding", "declared", "name"),
    [
        ("utf-8", "UTF-8", "naïve 猫"),
        ("utf-8", None, "naïve 猫"),
        ("utf-8-sig", "utf-8", "naïve 猫"),
        ("utf-8-sig", None, "naïve 猫"),
        ("utf-16", "UTF-16", "naïve 猫"),
        ("utf-16", None, "naïve 猫"),
        ("utf-16-le", "UTF-16", "naïve 猫"),
        ("utf-16-be", "utf-16", "naïve 猫"),
        ("utf-32", "utf-32", "naïve 猫"),
        ("gb2312", "GB2312", "猫"),
        ("gbk", "gb2312", "鎔"),  # not in GB2312, whose name such files bear nevertheless
        ("big5", "Big5", "貓"),
        ("shift_jis", "Shift_JIS", "ネコ"),
        ("cp932", "shift_jis", "①"),
        ("euc-kr", "EUC-KR", "고양이"),
        ("cp1252", "windows-1252", "café €"),
        ("latin-1", "ISO-8859-1", "café"),
        ("koi8-r", "KOI8-R", "кошка"),
        ("utf-8", "utf-16", "naïve 猫"),  # as .NET writes it: the declaration cannot be true
    ],
)
def test_the_declared_encoding_is_read(tmp_path, encoding, declared, name):
    said = "" if declared is None else f"<?xml version='1.0' encoding='{declared}'?>\n"
    root = read(tmp_path, f"{said}<a>\n<name>{name}</name></a>".encode(encoding))
    assert root.find("name").text == name
    assert root.find("name").line == (2 if declared is None else 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<a>café</a>".encode("latin-1"), r"a\.xml:1: not text in utf-8 \(byte 0xe9\)"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", r"a\.xml: its encoding 'klingon' is unk"),
        (b"<?xml version='1.0' encoding='hex'?><a/>", r"a\.xml: its encoding 'hex' is unknown"),
        (b"<?xml version='1.0' encoding='punycode'?><a/>", "'punycode' is unknown"),
        (b"<a>\n\0</a>", r"a\.xml:2: not well-formed XML"),
        (b"", r"a\.xml:1: not well-formed XML \(no element found"),
        (b"<a>" * 200_000, r"a\.xml:1: nested too deeply"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]>\n<a>&b;</a>", r"a\.xml:1: declares an entity"),
        (b"<!DOCTYPE a [<!ENTITY b SYSTEM '/dev/zero'>]>\n<a>&b;</a>", "declares an entity"),
        (b"<!DOCTYPE a SYSTEM 'a.dtd'>\n<a>x&b;y</a>", r"a\.xml:2: entity &b; is not known"),
    ],
)
def test_what_is_not_read_ends_at_once_with_one_line(tmp_path, content, message):
    begin = time.monotonic()
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)
    assert time.monotonic() - begin < 5


def test_a_wide_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(xml, "_MOST_ELEMENTS", 1000)
    with pytest.raises(UserError, match=r"a\.xml:1: too many elements"):
        read(tmp_path, b"<a>" + b"<b/>" * 1000 + b"</a>")


def test_a_billion_laughs(tmp_path):
    lines = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "lol"}">' for i in range(12))
    with pytest.raises(UserError, match="declares an entity"):
        read(tmp_path, f"<!DOCTYPE a [{lines}]><a>&e11;</a>".encode())


def test_a_long_text_takes_no_longer_than_its_length(tmp_path):
    begin = time.monotonic()
    root = read(tmp_path, b"<a>" + b"x\n&amp;" * 500_000 + b"</a>")
    assert len(root.text) == 1_500_000 and time.monotonic() - begin < 5
