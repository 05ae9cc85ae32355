"""`predict --count` over folders of frames, videos and cameras: exact counts of planted objects."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.decode import decode
from cnn_jax.data.image_reading import RGB
from cnn_jax.errors import UserError
from cnn_jax.reports.counts import POINTS, CountSeries, draw
from experiments import predict
from experiments.options import PredictOptions
from experiments.predict import counting
from experiments.predict.detection import BoxPredictor
from experiments.predict.frames import Photos, clips

FRAMES = 40
COLORS = {"red": (230, 20, 20), "blue": (20, 20, 230)}


def scene(i):
    """Frame i of 96 x 64 pixels: a red square goes right, another left; a blue one stays a while.

    The squares are 16 pixels wide. The first red one's centre is at 10 + 2i, the second's at
    86 - 2i, so one passes x = 48.5 between the frames 19 and 20, the other between 18 and 19.
    """
    frame = np.full((64, 96, 3), 110, np.uint8)
    for name, x, y in (("red", 10 + 2 * i, 10), ("red", 86 - 2 * i, 50), ("blue", 48, 30)):
        if name == "red" or 10 <= i < 20:
            frame[y - 8 : y + 8, max(x - 8, 0) : x + 8] = COLORS[name]
    return frame


def write_video(path, frames=FRAMES):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (96, 64))
    for i in range(frames):
        writer.write(scene(i)[..., ::-1])
    writer.release()
    return str(path)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("places")
    write_video(root / "street.avi")
    (root / "frames").mkdir()
    for i in range(FRAMES):
        Image.fromarray(scene(i)).save(root / "frames" / f"f{i}.png")
    return root


class Planted:
    """A network that finds squares by their colours, and a weaker one that does not count."""

    def outcomes(self, inputs):
        for given in inputs:
            pixels = decode(given) if isinstance(given, str) else given
            rows = []
            for label, color in enumerate(COLORS.values()):
                close = np.abs(pixels.astype(int) - color).max(-1) < 60
                _, _, boxes, _ = cv2.connectedComponentsWithStats(close.astype(np.uint8))
                rows += [(x, y, x + w, y + h, label) for x, y, w, h, area in boxes[1:] if area > 64]
            rows.append((0, 0, 9, 9, 1))
            rows = np.array(rows, np.float32)
            scores = np.full(len(rows), 0.9, np.float32)
            scores[-1] = 0.1
            found = {"boxes": rows[:, :4], "scores": scores, "labels": rows[:, 4].astype(np.int32)}
            yield given, pixels, found


def planted(options):
    predictor = BoxPredictor.__new__(BoxPredictor)
    predictor.names, predictor.reading, predictor._threshold = tuple(COLORS), RGB, 0.5
    predictor._options, predictor._folder = options, None
    return predictor


def run(tmp_path, *inputs, **settings):
    """The rows of the table of some inputs."""
    table = tmp_path / "counts.jsonl"
    options = PredictOptions(run=str(tmp_path), predictions=str(table), count=True, **settings)
    counting.count(Planted(), planted(options), clips(inputs, None), options)
    return [json.loads(line) for line in table.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["street.avi", "frames"])
def test_counts_of_a_clip_are_exact(places, tmp_path, kind, capsys):
    rows = run(tmp_path, str(places / kind), line=(48.5, 0.0, 48.5, 64.0))
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    assert [row["counts"] for row in rows] == [
        {"red": 2, "blue": int(10 <= i < 20)} for i in range(FRAMES)
    ]
    for name, number in (("red", 2), ("blue", 1)):
        assert sum(row["appeared"][name] for row in rows) == number
    # The line goes down: its left is the right of the picture.
    assert [i for i, row in enumerate(rows) if row["to_left"]["red"]] == [20]
    assert [i for i, row in enumerate(rows) if row["to_right"]["red"]] == [19]
    seconds = [row["seconds"] for row in rows]
    video = kind == "street.avi"
    assert seconds == [round(i / 20, 3) for i in range(FRAMES)] if video else [None] * FRAMES
    if not video:
        assert [row["image"] for row in rows][9:11] == [
            str(places / "frames" / name) for name in ("f9.png", "f10.png")
        ]
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    at = " (0.50 s)" if video else ""
    assert "red 2 in frame 0" + (" (0.00 s)" if video else "") + " 80 2 1 1" in lines
    assert f"blue 1 in frame 10{at} 10 1 0 0" in lines
    assert f"all classes 3 in frame 10{at} 90 3 1 1" in lines
    assert any("estimate without a tracker" in line for line in lines)
    curve = tmp_path / "predictions" / f"{kind.split('.')[0]}-counts.png"
    assert lines[-1] == f"curve: {curve}"
    assert np.asarray(Image.open(curve)).std() > 5


def test_every_nth_frame_and_an_end(places, tmp_path):
    for kind in ("street.avi", "frames"):
        rows = run(tmp_path, str(places / kind), every=4, frames=5)
        assert [row["frame"] for row in rows] == [0, 4, 8, 12, 16]
        assert [row["counts"]["blue"] for row in rows] == [0, 0, 0, 1, 1]


def test_only_what_is_in_the_region_counts(places, tmp_path):
    # The lower half, as a triangle that holds all centres there.
    rows = run(tmp_path, str(places / "frames"), region=(-200.0, 70.0, 300.0, 70.0, 48.0, 36.0))
    assert [row["counts"] for row in rows] == [{"red": 1, "blue": 0}] * FRAMES
    photo = str(places / "frames" / "f12.png")
    (row,) = run(tmp_path, photo, region=(0.0, 0.0, 96.0, 0.0, 96.0, 40.0, 0.0, 40.0))
    assert row == {"image": photo, "counts": {"red": 1, "blue": 1}}


def test_a_camera_is_counted_until_its_end(tmp_path, monkeypatch, capsys):
    shots = iter(range(8))
    fake = SimpleNamespace(
        isOpened=lambda: True,
        grab=lambda: setattr(fake, "i", next(shots, None)) or fake.i is not None,
        retrieve=lambda: (True, scene(fake.i)[..., ::-1]),
        release=lambda: None,
    )
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: fake if source == 0 else None)
    rows = run(tmp_path, "0", frames=6)
    assert [(row["image"], row["frame"]) for row in rows] == [("camera 0", i) for i in range(6)]
    assert next(shots) == 6  # no more than asked for is read
    assert (tmp_path / "predictions" / "camera-0-counts.png").exists()
    assert "camera 0: 6 frames counted" in capsys.readouterr().out


def test_folders_below_a_folder_are_clips_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/2/10.png", "in/2/9.png", "in/10/1.png", "7"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(0)).save(tmp_path / name, "png")
    found = clips(["in"], None)
    assert [(c.name, c.files) for c in found] == [
        ("in/2", ("in/2/9.png", "in/2/10.png")),
        ("in/10", ("in/10/1.png",)),
    ]
    # What is made of frames and clips of one name has names of its own.
    assert [c.outputs for c in found] == [("9", "10"), ("1",)]
    (tmp_path / "more").mkdir()
    Image.fromarray(scene(0)).save(tmp_path / "more" / "9.png")
    found = clips(["in", "more", "a/x.mp4", "b/x.mp4"], None)
    assert found[0].outputs == ("2_9", "10") and found[2].outputs == ("more_9",)
    assert [c.output for c in found] == ["2", "10", "more", "a_x", "b_x"]
    assert clips(["7"], None) == Photos(("7",), ("7",))  # a file of this name is no camera
    assert [c.source for c in clips(["8"], None)] == [8]
    with pytest.raises(UserError, match="7: a photo beside in/2"):
        clips(["in", "7"], None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"line": (200.0, 0.0, 300.0, 9.0)}, "--line: lies outside of .*, which has 96 x 64 pixe"),
        ({"region": (0.0, 70.0, 9.0, 70.0, 9.0, 80.0)}, "--region: lies outside of"),
    ],
)
def test_a_place_outside_of_the_picture_is_refused(places, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, str(places / "street.avi"), **settings)
    assert not (tmp_path / "counts.jsonl").exists()


def test_a_broken_clip_leaves_no_table(places, tmp_path):
    whole = (places / "street.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half\.avi: breaks off"):
        run(tmp_path, str(tmp_path / "half.avi"))
    assert [path.name for path in tmp_path.iterdir()] == ["half.avi"]


@pytest.mark.parametrize("name", ["line", "every", "frames"])
def test_photos_have_no_order(places, tmp_path, name):
    value = (0.0, 0.0, 9.0, 9.0) if name == "line" else 2
    with pytest.raises(UserError, match=f"--{name}: photos have no order"):
        run(tmp_path, str(places / "frames" / "f1.png"), **{name: value})


def test_long_series_keep_their_peaks_in_little_memory():
    series, counts = CountSeries(2), np.zeros((5000, 2), int)
    counts[:, 0] = np.arange(5000) % 7
    counts[4321, 1] = 9
    for i, row in enumerate(counts):
        series.add(i / 10, row)
    times, points = series.points
    assert POINTS <= len(points) <= 2 * POINTS and series.frames_per_point == 8
    np.testing.assert_allclose(times, np.arange(len(points)) * 0.8)
    padded = np.concatenate([counts, np.zeros((-len(counts) % 8, 2), int)])
    np.testing.assert_array_equal(points, padded.reshape(-1, 8, 2).max(1))


def test_a_curve_of_one_frame_and_of_no_object_is_drawn():
    series = CountSeries(1)
    series.add(0, np.array([0]))
    assert draw(series, ["a"], "$x", "frame").startswith(b"\x89PNG")


@pytest.fixture
def typed(tmp_path):
    """The beginning of a command line, with what is read of a run before it is loaded."""
    (tmp_path / "config.json").write_text('{"verb": "detect"}')
    return [str(tmp_path)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--line 0 0 9 9", "--line: only used with --count"),
        ("--region 0 0 9 9 9 0", "--region: only used with --count"),
        ("--every 2", "--every: only used with --count"),
        ("--count --region 0 0 9 9", "--region:? .*must be three points or more"),
        ("--count --region 0 0 9 9 9", "--region:? .*must be three points or more"),
        ("--count --region", "--region:? .*must be three points or more"),
        ("--count --line 5 5 5 5", "--line .*must be between two different points"),
        ("--count --line 5 5 5", "--line: expected 4 arguments"),
        ("--count --frames 0", "--frames 0: must be"),
    ],
)
def test_flags_that_do_nothing_or_are_too_few_are_refused(typed, places, flags, message):
    with pytest.raises(UserError, match=message):
        predict.main([*typed, str(places / "street.avi"), *flags.split()])


def test_a_video_without_count_is_told(typed, places):
    video = str(places / "street.avi")
    with pytest.raises(UserError, match=r"street\.avi: a video, which only predict --count"):
        predict.main([*typed, video])
