"""The survey of images: numbers by class and split, and the same picture in both splits."""

import numpy as np

from cnn_jax.data.formats.boxes import BoxedImage, BoxSource
from cnn_jax.data.source import Subset
from cnn_jax.data.surveys import images as survey


class Source:
    def __init__(self, class_names, labels=None, files=None, notices=(), count=0):
        self.class_names, self.files, self.notices = class_names, files, notices
        self.labels = None if labels is None else np.asarray(labels)
        self._count = count if labels is None else len(labels)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        raise NotImplementedError("a survey reads no example")

    def describe(self, index):
        return str(index)


def test_numbers_by_class_and_split():
    names = ("ant", "bee", "cow")
    training = Source(names, [0] * 3 + [1] * 2 + [2], notices=("first", "both"))
    held_out = Source(names, [0, 0, 1], notices=("both",))
    assert survey.notices(training, held_out) == [
        "first",
        "both",
        "data: 6 training images, 3 for evaluation; 3 classes of 1 to 3 training images "
        "(training + evaluation: ant 3 + 2, bee 2 + 1, cow 1 + 0)",
        "data: no image for evaluation of the class cow",
    ]


def test_numbers_of_many_classes_and_of_several_labels():
    names = tuple(map(str, range(40)))
    lines = survey.notices(Source(names, list(range(40)) * 30), Source(names, list(range(24))))
    assert lines == [
        "data: 1,200 training images, 24 for evaluation; 40 classes of 30 training images",
        "data: no image for evaluation of 16 classes: 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, "
        "35 and 4 more",
    ]
    tagged = Source(("x", "y"), [[True, True], [False, False], [False, True]])
    assert survey.notices(tagged, Source(("x", "y"), [[True, True]]), "patch") == [
        "data: 3 training patches, 1 for evaluation; 2 classes of 1 to 2 training patches "
        "(training + evaluation: x 1 + 1, y 2 + 1)",
        "data: 1 training patch without any class",
    ]
    unknown = Source(("a",), count=1)
    assert survey.notices(unknown, unknown) == ["data: 1 training image, 1 for evaluation"]


def test_images_of_boxes_are_counted_by_the_classes_in_them():
    def source(*labels):
        found = [
            BoxedImage("x.png", np.zeros((len(each), 4)), np.array(each, np.int32))
            for each in labels
        ]
        return BoxSource(("ant", "bee"), found)

    training, held_out = source([0, 0], [], [1, 0]), Subset(source([1], [0]), [0])
    assert survey.summary(training, held_out) == [
        "data: 3 training images, 1 for evaluation; 2 classes of 1 to 2 training images "
        "(training + evaluation: ant 2 + 0, bee 1 + 1)",
        "data: no image for evaluation of the class ant",
    ]


def test_equal_pictures_are_found_by_their_bytes(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    long = bytes(range(256)) * 100
    middle = bytearray(long)
    middle[12_000] ^= 1
    first = [write("a", b"one"), write("b", long), write("c", b""), write("d", b"two")]
    second = [write("e", b"eno"), write("f", b""), write("g", bytes(middle)), write("h", b"two")]
    second += [write("i", long), str(tmp_path / "gone")]
    assert survey.pairs_of_equal_files(first, second) == [
        (second[3], first[3]),
        (second[4], first[1]),
    ]
    (line,) = survey.equal_pictures(Source((), files=first), Source((), files=second))
    assert line == (
        f"data: 2 of 6 pictures for evaluation are in the training set too, byte for byte "
        f"({second[3]} is {first[3]}); what is measured on them is too good"
    )
    assert survey.equal_pictures(Source((), files=first), Source((), files=second[:3])) == []
    assert survey.equal_pictures(Source(()), Source((), files=second)) == []


def test_too_many_files_are_not_compared(monkeypatch):
    monkeypatch.setattr(survey, "MOST_FILES", 3)
    (line,) = survey.equal_pictures(Source((), files=["a", "b"]), Source((), files=["c", "d"]))
    assert line.startswith("data: not looked for") and "4 files are more than 3" in line
