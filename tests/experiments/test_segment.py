"""The segment command, and predict for it, as a user runs them on a tiny folder of masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints
from experiments import options as flags
from experiments import predict, presets, segment
from tests.commands import per_class, rows, shows_its_pictures

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = ["--model", "unet_same", "--width", "0.0625", "--batch-size", "4"]
STEPS = ["--steps", "4", "--report-every", "2", "--eval-every", "2", "--learning-rate", "0.02"]
SIZE = (18, 22)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Bright discs on dark ground: 12 images for training, 4 to evaluate, 3 to test."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for split, count in (("train", 12), ("val", 4), ("test", 3)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            centre = rng.uniform(5, 13, 2)
            disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 20
            pixels = rng.integers(0, 60, (*SIZE, 3)) + 150 * disc[..., None]
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"images/{split}/{number}.png")
            mask = disc.astype(np.uint8)
            mask[0, :3] = 255
            Image.fromarray(mask).save(root / f"labels/{split}/{number}.png")
    (root / "classes.txt").write_text("ground\ndisc\n")
    return root


def train(photos, out, *extra):
    arguments = ["--data", f"masks:{photos}", "--out", str(out), *SMALL, *STEPS, "--flip"]
    segment.main([*arguments, *extra])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(photos, out, "--class-weights", "median_frequency", "--cells")
    return out


def test_a_run_leaves_its_folder_with_pictures_and_a_page(trained):
    result = json.loads((trained / "result.json").read_text())
    contract = "pixel_accuracy class_accuracy mean_iou boundary_f1 loss"
    assert set(contract.split()) <= set(result)
    assert {"pixel_error", "rand_error", "warping_error"} <= set(result)
    assert result["pixel_error"] >= 1 - result["pixel_accuracy"] - 1e-6  # ignored pixels are wrong
    for name in ("worst", "some"):
        assert pixels(trained / "samples" / f"{name}.png").shape[1:] == (960, 3)
    assert shows_its_pictures(trained)
    page = (trained / "report.html").read_text()
    for text in ("By class", "Confusion matrix", "Worst", "disc", "prediction"):
        assert text in page
    config = json.loads((trained / "config.json").read_text())
    assert config["class_names"] == ["ground", "disc"]
    assert config["evaluated_size"] == list(SIZE)
    # The rarer class counts more; the median of two frequencies lies between them.
    ground, disc = config["weights_by_class"]
    assert ground < 1 < disc


def test_a_run_that_stopped_goes_on_to_the_same_bits(photos, trained, tmp_path):
    out = tmp_path / "resumed"
    train(photos, out, "--class-weights", "median_frequency", "--cells")
    for step in checkpoints.steps(out / "checkpoints"):
        if step > 2:
            shutil.rmtree(out / "checkpoints" / str(step))
    segment.main(["--out", str(out), "--resume"])
    assert rows(out)[-1] == rows(trained)[-1]


def test_the_test_split_with_batch_norm_recalibrated(trained):
    before = rows(trained)[-1]
    table = trained / "rows.jsonl"
    only = ["--eval-only", "--out", str(trained), "--split", "test"]
    segment.main([*only, "--predictions", str(table)])
    plain, by_class = rows(trained)[-1], per_class(trained)
    examples = [json.loads(line) for line in table.read_text().splitlines()]
    assert [Path(row["name"]).name for row in examples] == ["0.png", "1.png", "2.png"]
    # Every image has as many pixels that count, so that the mean over images is that over pixels.
    accuracy = np.mean([row["pixel_accuracy"] for row in examples])
    assert accuracy == pytest.approx(plain["pixel_accuracy"], abs=1e-6)
    ious = [one["iou"] for one in by_class.values()]
    assert np.mean(ious) == pytest.approx(plain["mean_iou"], abs=1e-6)
    for name, one in by_class.items():
        true = np.mean([row["truth"][name] for row in examples])
        pixels = 3 * (SIZE[0] * SIZE[1] - 3)
        assert one["support"] == pytest.approx(true * pixels)
        # F1 is a function of IoU.
        assert one["f1"] == pytest.approx(2 * one["iou"] / (1 + one["iou"]), abs=1e-6)
    segment.main(["--eval-only", "--out", str(trained), "--split", "test", "--recalibrate"])
    anew = rows(trained)[-1]
    assert plain["split"] == anew["split"] == "test" and before["split"] == "eval"
    assert plain["loss"] != anew["loss"]
    # After four steps the running averages are still close to where they started from.
    assert anew["loss"] < plain["loss"]


def test_predict_writes_masks_of_the_image_s_own_size(trained, photos, tmp_path, capsys):
    image = tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 29, 3), np.uint8)).save(image)
    place = tmp_path / "found"
    arguments = [str(trained), str(image), "--json", "--probabilities", "--directory", str(place)]
    predict.main(arguments)
    (found,) = json.loads(capsys.readouterr().out)
    mask = pixels(found["mask"])
    assert mask.shape == (37, 29) and set(np.unique(mask)) <= {0, 1}
    assert pixels(found["overlay"]).shape == (37, 29, 3)
    probabilities = np.load(found["probabilities"])
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-4)
    np.testing.assert_array_equal(probabilities.argmax(-1), mask)
    assert found["shares"]["disc"] == pytest.approx((mask == 1).mean())


def test_views_of_an_image_are_averaged(trained, photos):
    image = pixels(photos / "images/val/0.png")
    plain = predict.load(trained)
    both = [one["probabilities"] for one in plain.predict([image, image[:, ::-1]])]
    (averaged,) = predict.load(trained, tta=("flip",)).predict([image])
    mean = (both[0] + both[1][:, ::-1]) / 2
    np.testing.assert_allclose(averaged["probabilities"], mean, atol=1e-4)
    (sizes,) = predict.load(trained, tta=("flip", "0.75", "1.25")).predict([image])
    np.testing.assert_allclose(sizes["probabilities"].sum(-1), 1, atol=1e-3)
    assert sizes["mask"].shape == image.shape[:2]


def test_predictions_of_one_stem_do_not_replace_each_other(trained, tmp_path, capsys):
    inputs = [tmp_path / name for name in ("x/0001.png", "y/0001.png", "y/0001.jpg", "y/other.png")]
    for shade, path in enumerate(inputs):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIZE[1] + shade, SIZE[0]), (60 * shade,) * 3).save(path)
    inputs.append(inputs[-1])  # the same image twice
    place = tmp_path / "found"
    arguments = [*map(str, inputs), "--probabilities", "--directory", str(place)]
    predict.main([str(trained), *arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [result["image"] for result in found] == [str(path) for path in inputs]
    stems = ["x_0001_png", "y_0001_png", "y_0001_jpg", "other-1", "other-2"]
    assert [result["mask"] for result in found] == [f"{place}/{stem}.mask.png" for stem in stems]
    assert len(list(place.iterdir())) == 15
    for shade, result in enumerate(found[:4]):
        size = (SIZE[0], SIZE[1] + shade)
        assert pixels(result["mask"]).shape == pixels(result["overlay"]).shape[:2] == size
        assert np.load(result["probabilities"]).shape == (*size, 2)
    Image.new("RGB", SIZE).save(tmp_path / "y/other.mask.png")
    inside = [str(tmp_path / "y" / name) for name in ("other.png", "other.mask.png")]
    with pytest.raises(UserError, match=r"other\.mask\.png: a prediction would replace this input"):
        predict.main([str(trained), *inside, "--directory", str(tmp_path / "y")])


def test_what_is_noticed_of_the_data_is_told_before_the_first_step(photos, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    shutil.copy(copy / "images/train/3.png", copy / "images/val/0.png")
    half = copy / "labels/train/2.png"
    with Image.open(half) as image:
        image.resize((11, 9), Image.Resampling.NEAREST).save(half)
    train(copy, tmp_path / "out", "--steps", "1", "--eval-every", "1")
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith(("1 mask", "data: "))]
    assert told == [
        f"1 mask was scaled to the image's size (the first: {half})",
        "data: 12 training images, 4 for evaluation; 2 classes of 12 training images (training + "
        "evaluation: ground 12 + 4, disc 12 + 4)",
        f"data: 1 of 4 pictures for evaluation is in the training set too, byte for byte "
        f"({copy}/images/val/0.png is {copy}/images/train/3.png); what is measured on them is too "
        "good",
    ]


def test_tiles_cover_images_of_any_size(photos, tmp_path, capsys):
    out = tmp_path / "tiles"
    train(photos, out, "--tile", "16", "--crop-size", "16", "16")
    # 18 x 22 pixels in tiles of 16 are four, and every pixel counts once.
    evaluated = np.array(json.loads((out / "config.json").read_text())["evaluated_size"])
    assert evaluated.tolist() == [16, 16]
    capsys.readouterr()
    predict.main([str(out), str(photos / "images/test/0.png")])
    assert "0.png: " in capsys.readouterr().out
    assert pixels(out / "predictions" / "0.mask.png").shape == SIZE


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model", "segnit"], "did you mean segnet"),
        (["--class-weights", "1", "2", "3"], "each of the 2 classes"),
        (["--class-weights", "1", "much"], "median_frequency, or a number"),
        (["--upsampling", "unpool"], "upsampling"),
        (["--image-shape", "0", "4"], "--image-shape"),
        (["--tile", "16", "--image-shape", "8", "8"], "give one of them"),
        (["--loss", "dice", "--border-weight", "10"], "--border-weight: not used with --loss dice"),
        (["--crop-size", "40", "40"], "--crop-size 40 40"),
    ],
)
def test_wrong_flags_are_refused_in_a_line(photos, tmp_path, extra, message):
    with pytest.raises(UserError, match=message):
        train(photos, tmp_path / "out", *extra)


def test_a_mask_of_an_unknown_value_is_named_before_the_first_step(photos, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    bad = copy / "labels" / "train" / "7.png"
    mask = pixels(bad).copy()
    mask[4, 5] = 9
    Image.fromarray(mask).save(bad)
    with pytest.raises(UserError, match=r"7.png: value 9 at row 4, column 5"):
        train(copy, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("name", presets.SEGMENTATION)
def test_presets_are_options(name):
    data_flag = [] if name == "shapes" else ["--data", "masks:x"]
    options = flags.parse(segment.Options, ["--preset", name, *data_flag], presets.SEGMENTATION)
    assert options.run.preset == name


def test_another_network_takes_the_place_of_the_built_in_recipe_s():
    """`--model` alone swaps it: what only the recipe's own network has is left out."""
    swapped = ["--model", "unet_same"]
    options = flags.parse(segment.Options, swapped, presets.SEGMENTATION, "model")
    assert options.run.preset == "shapes_others"
    assert options.model.width == 0.25 and options.model.output_stride is None
    segment.build_model(options, 3)
    options = flags.parse(segment.Options, [], presets.SEGMENTATION, "model")
    assert options.run.preset == "shapes"
    assert options.model.model == "airbench95" and options.model.output_stride == 8
