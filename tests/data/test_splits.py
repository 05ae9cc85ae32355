"""The names of splits, in any case and form."""

import pytest

from cnn_jax.data.splits import by_kind, kind_of, serving
from cnn_jax.errors import UserError


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("train", "train Train TRAIN training Training_Set trainset train-images train2017"),
        ("val", "val valid Validation validation_set dev DEV val2017 valset"),
        ("test", "test Testing test_set TestImages test2012"),
        (None, "trains test2 trainval cat testament dataset set 2017 validate2x"),
    ],
)
def test_the_usual_names(kind, names):
    assert {name: kind_of(name) for name in names.split()} == dict.fromkeys(names.split(), kind)


def test_a_split_is_served_by_its_own_name_or_the_other_held_out_one():
    both = by_kind(["Testing", "Training", "valid", "other"], "D")
    assert both == {"train": "Training", "val": "valid", "test": "Testing"}
    assert [serving(split, both) for split in ("train", "eval", "test")] == [
        "Training", "valid", "Testing",
    ]  # fmt: skip
    assert serving("eval", {"test": "T"}) == serving("test", {"test": "T"}) == "T"
    assert serving("eval", {"train": "T"}) is None


def test_two_names_of_one_split_are_refused():
    with pytest.raises(UserError, match="D: val and valid both mean the split 'val'"):
        by_kind(["val", "valid"], "D")
