"""The commands on grey images and on images of four bands, as a user runs them."""

import json

import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import UserError
from experiments import annotate, classify, detect, pack, predict, segment
from experiments import options as flags
from tests.checks import assert_same_bits
from tests.commands import leaves, rows
from tests.experiments.test_balance import boxes

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = ["--width", "0.25", "--image-size", "16", "--batch-size", "8"]
STEPS = ["--report-every", "2", "--eval-every", "30", "--learning-rate", "0.05"]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path)


def noise(rng, channels, side=16):
    return rng.integers(60, 200, (side, side, channels)).astype(np.uint8)


@pytest.fixture(scope="module")
def veils(tmp_path_factory):
    """Two classes of the same colours, told apart by their opacity alone."""
    root, rng = tmp_path_factory.mktemp("veils"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, opacity in (("dense", 250), ("thin", 40)):
            for i in range(count):
                pixels = noise(rng, 4)
                pixels[..., 3] = opacity
                save(root / split / name / f"{i}.png", pixels)
    return root


def classified(data, out, *extra):
    command = ["--data", data, "--out", str(out), *SMALL, *STEPS, "--steps", "30"]
    classify.main([*command, "--channels", "4", "--erase", "0.5", *extra])


@pytest.fixture(scope="module")
def trained(veils, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    classified(f"folder:{veils}", out)
    return out


def first_kernel(run):
    return leaves(run)["params"]["stem_conv"]["kernel"].shape


def test_a_network_of_four_channels_learns_from_the_fourth(veils, trained, capsys):
    assert first_kernel(trained)[2] == 4
    assert rows(trained)[-1]["top1"] == 1.0
    predict.main([str(trained), str(veils / "val/thin/0.png")])
    assert capsys.readouterr().out.startswith("thin ")
    file = str(veils / "val/thin/0.png")
    with Image.open(file) as image:
        pixels = np.asarray(image)
    one, other = (next(predict.load(str(trained)).predict([image])) for image in (file, pixels))
    assert one["predictions"] == other["predictions"]
    with pytest.raises(UserError, match=r"must be uint8 \[height, width, 4\]"):
        list(predict.load(str(trained)).predict([pixels[..., :3].copy()]))


def test_packed_canvases_keep_the_channels(veils, trained, tmp_path):
    data = ["--data", f"folder:{veils}", "--image-size", "16"]
    pack.main([*data, "--channels", "4", "--out", str(tmp_path / "pack")])
    classified(f"packed:{tmp_path / 'pack'}", tmp_path / "run")
    assert_same_bits(leaves(tmp_path / "run"), leaves(trained))
    with pytest.raises(UserError, match="was packed with --channels 4, not 1"):
        classified(f"packed:{tmp_path / 'pack'}", tmp_path / "grey", "--channels", "1")


def test_weights_of_other_channels_are_refused_in_a_line(veils, trained, tmp_path):
    with pytest.raises(
        UserError, match=r"stem_conv/kernel is .*3,3,4,4. in the checkpoint"
    ) as error:
        classified(
            f"folder:{veils}", tmp_path / "run", "--channels", "1", "--init-from", str(trained)
        )
    assert "\n" not in str(error.value)


def test_files_of_other_bands_are_refused_in_a_line(veils, tmp_path):
    with pytest.raises(UserError, match=r"\.png: has 4 channels, not the 6 of --channels"):
        classified(f"folder:{veils}", tmp_path / "run", "--channels", "6")


def test_annotate_reads_grey_images(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = ["name,bright,dark"]
    for i in range(12):
        save(tmp_path / f"images/{i}.png", noise(rng, 1) // (1 + i % 2 * 3))
        lines.append(f"{i}.png,{1 - i % 2},{i % 2}")
    (tmp_path / "tags.csv").write_text("\n".join(lines) + "\n")
    data = ["--data", f"csv:{tmp_path / 'tags.csv'},{tmp_path / 'images'}", "--channels", "1"]
    out = tmp_path / "run"
    annotate.main([*data, "--out", str(out), *SMALL, *STEPS, "--steps", "2"])
    assert first_kernel(out)[2] == 1
    predict.main([str(out), str(tmp_path / "images/0.png")])
    assert capsys.readouterr().out


def test_segment_reads_grey_images(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for i in range(count):
            mask = (rng.random((16, 16)) < 0.5).astype(np.uint8)
            save(tmp_path / f"images/{split}/{i}.png", noise(rng, 1) // 2 + 100 * mask[..., None])
            save(tmp_path / f"labels/{split}/{i}.png", mask)
    (tmp_path / "classes.txt").write_text("ground\nspot\n")
    out = tmp_path / "run"
    segment.main(
        [
            *("--data", f"masks:{tmp_path}", "--channels", "1", "--out", str(out), "--flip"),
            *("--model", "unet_same", "--width", "0.0625", "--batch-size", "4", *STEPS),
            *("--steps", "2", "--class-weights", "balanced"),
        ]
    )
    config = json.loads((out / "config.json").read_text())
    assert config["channels"] == 1 and len(config["weights_by_class"]) == 2
    predict.main([str(out), str(tmp_path / "images/val/0.png"), "--tta", "flip"])
    assert "overlay.png" in capsys.readouterr().out
    with Image.open(out / "predictions" / "0.overlay.png") as shown:
        assert shown.mode == "RGB" and shown.size == (16, 16)


YOLO = ["--model", "fast_yolo", "--width", "0.03", "--image-size", "64", "--grid", "4"]
REGIONS = [
    *("--system", "fast_rcnn", "--model", "resnet20", "--width", "0.25", "--image-size", "32"),
    *("--proposals", "grid", "--max-proposals", "24", "--regions", "8", "--units", "8"),
    *("--pool-size", "2",),
]  # fmt: skip


@pytest.mark.parametrize("system", [YOLO, REGIONS], ids=["yolo", "fast_rcnn"])
def test_detect_reads_grey_images(system, tmp_path, capsys):
    spec, out = boxes(tmp_path), tmp_path / "run"
    detect.main(
        [
            *("--data", spec, "--channels", "1", "--out", str(out), *system, *STEPS),
            *("--batch-size", "4", "--steps", "2", "--holdout-fraction", "0.2"),
            *("--min-score", "0", "--max-detections", "20"),
        ]
    )
    predict.main([str(out), str(tmp_path / "images/0.png")])
    assert "0.png" in capsys.readouterr().out
    with Image.open(out / "predictions" / "0.png") as shown:
        assert shown.mode == "RGB"


@pytest.mark.parametrize(
    ("verb", "given", "message"),
    [
        (classify, "--channels 1", "--channels: not used with --data shapes"),
        (classify, "--data folder:x --channels 1 --hue 0.1", "--hue: only used with --channels 3"),
        (classify, "--data folder:x --channels 4 --policy rand", "only used with --channels 3"),
        (segment, "--data masks:x --channels 2 --color-jitter 0.1", "only used with --channels 3"),
        (detect, "--data voc:x --channels 1 --exposure 2", "only used with --channels 3"),
        (classify, "--data folder:x --channels 0", "--channels 0: must be a whole number in"),
    ],
)
def test_what_needs_colours_is_refused(verb, given, message):
    with pytest.raises(UserError, match=message):
        flags.parse(verb.Options, given.split(), verb.COMMAND.presets, verb.COMMAND.variant)


def test_a_preset_s_colours_are_passed_over(tmp_path):
    command = f"--data folder:{tmp_path} --preset resnet50_v2 --channels 1 --out x".split()
    options = flags.parse(classify.Options, command, classify.COMMAND.presets)
    augmentation = classify.build_task(options, ("a", "b")).augmentation
    assert (augmentation.color_jitter, augmentation.hue, augmentation.policy) == (0, 0, "none")
