"""Tables of colours in the forms that people keep them in, and the look-up of pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.data.label_colors import read_label_colors, voc_colors
from cnn_jax.errors import UserError

ROWS = (("sky", (128, 128, 128)), ("road side", (128, 64, 0)), ("car", (0, 0, 255)))


def table(tmp_path, text):
    path = tmp_path / "colors.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "name,r,g,b\nsky,128,128,128\nroad side,128,64,0\ncar,0,0,255\n",
        "\ufeffname,r,g,b\r\nsky,128,128,128\r\nroad side,128,64,0\r\ncar,0,0,255\r\n\r\n",
        "name,r,g,b\rsky,128,128,128\rroad side,128,64,0\rcar,0,0,255\r",
        " name, r, g, b\n sky, 128, 128, 128\n road side, 128, 64, 0\n car, 0, 0, 255",
        "r;g;b;class\n128;128;128;sky\n128;64;0;road side\n0;0;255;car\n",
        "id,Class Name,blue,green,red\n0,sky,128,128,128\n1,road side,0,64,128\n2,car,255,0,0",
        "128 128 128\tsky\n128 64 0\troad side\n0 0 255\tcar\n",
        "sky 128 128 128\nroad side 128 64 0\ncar 0 0 255\n",
        "# of the city\nsky #808080\nroad side #804000\ncar #0000ff\n",
        "#808080,sky\n#804000,road side\n#0000FF,car\n",
        "# label:color_rgb:parts:actions\nsky:128,128,128::\nroad side:128,64,0::\ncar:0,0,255::\n",
        '"name","r","g","b"\n"sky",128,128,128\n"road side",128,64,0\n"car",0,0,255\n',
    ],
)
def test_forms_of_tables(tmp_path, text):
    colors = read_label_colors(table(tmp_path, text))
    assert colors.names == tuple(name for name, _ in ROWS)
    assert colors.colors.tolist() == [list(color) for _, color in ROWS]
    assert colors.values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"colors\.csv: no colours, expected a name"),
        ("name,r,g,b\n", "no colours"),
        ("name,r,g,b\nsky,1,2\n", r"csv:2: 'sky,1,2' is no class with its colour"),
        ("sky,1,2,256\n", r"csv:1: .* is no class"),
        ("sky,1,2,3\nroad,-1,2,3\n", r"csv:2: .* is no class"),
        ("1,2,3\n", r"csv:1: .* is no class"),
        ("sky,1,2,3\nsky,1,2,4\n", r"csv:2: sky is that of line 1 too"),
        ("sky,1,2,3\nroad,1,2,3\n", r"csv:2: the colour 1 2 3 is that of line 1 too"),
        ("\n".join(f"c{i},1,2,{i}" for i in range(256)), "256 classes, masks can have 255 at most"),
        (b"sky\xff,1,2,3", "not text in utf-8"),
        (b"a" * 200_000 + b",1,2,3\0", "is no class|not text"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_label_colors(table(tmp_path, text))


def test_voc_s_palette():
    """The first colours as the development kit lists them, and its border."""
    colors = voc_colors()
    assert len(colors.names) == 21 and colors.names[15] == "person"
    assert colors.colors[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors.colors[[15, 20]].tolist() == [[192, 128, 128], [0, 64, 128]]
    found = colors.look_up(np.array([[[224, 224, 192], [192, 128, 128]]], np.uint8), "m")
    assert found.tolist() == [[255, 15]]
    assert voc_colors(2).names == ("background", "aeroplane") and len(voc_colors(30).names) == 30


def test_unknown_colours_are_named_with_their_pixels(tmp_path):
    colors = read_label_colors(table(tmp_path, "sky,1,2,3\nroad,4,5,6\n"))
    pixels = np.array([[[1, 2, 3], [9, 9, 9], [9, 9, 9]], [[4, 5, 6], [7, 8, 9], [4, 5, 6]]])
    with pytest.raises(UserError) as caught:
        colors.look_up(pixels.astype(np.uint8), "a.png")
    assert str(caught.value) == (
        "a.png: colours 9 9 9 (2 pixels), 7 8 9 (1 pixel) are none of the 2 colours of "
        f"{tmp_path}/colors.csv"
    )


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory, data):
    word = st.text("abc xyz-_éß猫", min_size=1, max_size=12).map(str.strip).filter(bool)
    names = data.draw(st.lists(word.map(" ".join.__call__), min_size=1, max_size=9, unique=True))
    names = [" ".join(name.split()) for name in names]
    color = st.tuples(*[st.integers(0, 255)] * 3)
    rgb = data.draw(st.lists(color, min_size=len(names), max_size=len(names), unique=True))
    path = tmp_path_factory.mktemp("colors") / "t.csv"
    rows = [",".join([name, *map(str, c)]) for name, c in zip(names, rgb, strict=True)]
    path.write_text("\n".join(["name,r,g,b", *rows]), encoding="utf-8")
    colors = read_label_colors(path)
    assert colors.names == tuple(names)
    values = np.random.default_rng(0).integers(0, len(names), (5, 7))
    np.testing.assert_array_equal(colors.look_up(colors.colors[values], "m"), values)
