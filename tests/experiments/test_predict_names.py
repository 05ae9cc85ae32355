"""The names of predictions: one of its own for every input, the same in every call."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.errors import UserError
from experiments.predict.names import folder_name, output_names, require_other_files


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ("a.png b.jpg", "a b"),
        ("x/0001.png y/0001.png", "x_0001 y_0001"),
        ("x/0001.png y/0001.png y/2.png", "x_0001 y_0001 2"),
        ("0001.png x/0001.png", "0001 x_0001"),
        ("/d/x/1.png /d/y/1.png", "x_1 y_1"),
        ("p/x/1.png q/x/1.png p/y/1.png", "p_x_1 q_x_1 p_y_1"),
        ("a.jpg a.png", "a_jpg a_png"),
        ("x/a.jpg x/a.png y/a.jpg", "x_a_jpg x_a_png y_a_jpg"),
        ("A.png x/a.png", "A x_a"),
        ("x/1.png y/1.png x_1.png", "x_1-2 y_1 x_1"),
        ("a.png a.png", "a-1 a-2"),
        ("a.png ./a.png b.png", "a-1 a-2 b"),
        ("a-1.png a.png a.png", "a-1 a-1-2 a-2"),
        ("a.b.png a.png", "a.b a"),
    ],
)
def test_names(inputs, names):
    assert output_names(inputs.split()) == names.split()


def test_files_above_are_told_apart_by_their_whole_paths(monkeypatch, tmp_path):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    one, other = output_names(["a.png", "../a.png"])
    assert one.endswith("x_a_png") and other.endswith("_a_png") and one != other


part = st.sampled_from(
    ["a", "A", "b", "é", unicodedata.normalize("NFD", "é"), "x_a", "a-2", "..", "."]
)


@given(st.lists(st.tuples(st.lists(part, max_size=3), part, st.sampled_from([".png", ".jpg", ""])),
                min_size=1, max_size=8))  # fmt: skip
def test_every_input_has_a_name_of_its_own(paths):
    inputs = [os.path.join(*above, stem.strip(".") + "n" + ending) for above, stem, ending in paths]
    names = output_names(inputs)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(inputs)
    assert names == output_names(inputs)
    assert not any(os.sep in name or name in ("", ".", "..") for name in names)
    stems = [
        unicodedata.normalize("NFC", os.path.splitext(os.path.basename(i))[0]).casefold()
        for i in inputs
    ]
    for file, name, stem in zip(inputs, names, stems, strict=True):
        if stems.count(stem) == 1:
            assert name == os.path.splitext(os.path.basename(file))[0]


def test_long_names_are_shortened_and_stay_apart():
    first, second = output_names([f"{'x' * 150}/{'é' * 90}1.png", f"{'y' * 150}/{'é' * 90}1.png"])
    assert first != second and max(len(os.fsencode(name)) for name in (first, second)) <= 200


def test_an_input_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^a\.png: a prediction would replace this input"):
        require_other_files(["a.png", "b.png"], [tmp_path / "c.png", tmp_path / "a.png"])
    require_other_files(["a.png"], [tmp_path / "x" / "a.png"])


def test_names_of_classes_are_names_of_folders():
    assert [folder_name(n) for n in ("cat", "a/b", "..", "", "x\\y\0z", "été")] == [
        "cat", "a_b", "__", "_", "x_y_z", "été",
    ]  # fmt: skip
