"""The commands on images of 16 bits a channel, as a user runs them."""

import json
import shutil

import cv2
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

from cnn_jax.errors import UserError
from experiments import annotate, classify, detect, export, pack, predict, segment
from experiments import options as flags
from tests.checks import assert_same_bits
from tests.commands import leaves

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = ["--width", "0.25", "--image-size", "16", "--batch-size", "8"]
STEPS = ["--report-every", "2", "--eval-every", "30", "--learning-rate", "0.05"]
ADAM = ["--optimizer", "adam", "--learning-rate", "0.003", "--weight-decay", "0"]
BITS = ["--bits", "16"]
SHADES = {"dark": 20495, "bright": 20670}  # 80 in 8 bits, by 256 and by 257
LEARNT = [*BITS, "--steps", "30", "--checkpoint-every", "29"]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert pixels.dtype == np.uint16
    cv2.imwrite(str(path), pixels[..., ::-1])
    return str(path)


def read(file):
    """RGB or grey, without this project's code."""
    pixels = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    return pixels[..., None] if pixels.ndim == 2 else pixels[..., ::-1].copy()


def level(rng, middle, channels=3, side=16):
    """An image around a value, which is the same everywhere in 8 bits if it is one of `SHADES`."""
    return rng.integers(middle - 10, middle + 10, (side, side, channels)).astype(np.uint16)


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """Two classes that are the same in 8 bits."""
    root, rng = tmp_path_factory.mktemp("shades"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, middle in SHADES.items():
            for i in range(count):
                kind = "png" if i % 2 else "tiff"
                save(root / split / name / f"{i}.{kind}", level(rng, middle))
    return root


def classified(data, out, *extra):
    command = ["--data", data, "--out", str(out), *SMALL, *STEPS, *ADAM]
    classify.main([*command, "--erase", "0.5", *(extra or LEARNT)])


@pytest.fixture(scope="module")
def trained(shades, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    classified(f"folder:{shades}", out)
    return out


def test_a_network_learns_from_the_low_byte(shades, trained, tmp_path, capsys):
    assert json.loads((trained / "config.json").read_text())["bits"] == 16
    dark, bright = (sorted(of_bright(trained, shades / "val" / name)) for name in SHADES)
    # On one side each; batch statistics of so few images do not tell which.
    assert dark[-1] < bright[0] or bright[-1] < dark[0]
    classified(f"folder:{shades}", tmp_path / "run", "--steps", "2")
    told = capsys.readouterr()
    assert "are scaled to 8; --bits 16 reads them as they are" in told.out + told.err
    found = [p for name in SHADES for p in of_bright(tmp_path / "run", shades / "val" / name)]
    assert found == [found[0]] * 8


def of_bright(run, folder):
    """The probability of `bright` of each image, alone: places of a batch may round otherwise."""
    trained = predict.load(str(run))
    for file in sorted(folder.iterdir()):
        (found,) = trained.predict([str(file)])
        yield next(p["probability"] for p in found["predictions"] if p["label"] == "bright")


def test_files_and_arrays_are_predicted_alike(shades, trained):
    file = str(shades / "val/bright/1.png")
    predicted_alike(trained, file)
    with pytest.raises(UserError, match=r"must be uint16 \[height, width, 3\], RGB"):
        list(predict.load(str(trained)).predict([read(file).astype(np.uint8)]))


def predicted_alike(run, file):
    """What a run finds in a file, and to the last bit in its pixels."""
    trained = predict.load(str(run))
    found = list(trained.predict([file]))
    assert_same_bits(found, list(trained.predict([read(file)])))
    return found


def test_a_run_that_stopped_goes_on_with_the_same_bits(trained, tmp_path):
    continued(classify, trained, tmp_path / "run", 30)


def continued(verb, run, out, steps):
    """Lose the last checkpoint of a copy of a run, and resume it."""
    shutil.copytree(run, out)
    shutil.rmtree(out / f"checkpoints/{steps}")
    verb.main(["--resume", "--out", str(out)])
    assert_same_bits(leaves(out), leaves(run))


def test_packed_canvases_keep_the_bits(shades, trained, tmp_path):
    packed = f"packed:{tmp_path / 'pack'}"
    pack.main(["--data", f"folder:{shades}", "--image-size", "16", *BITS, "--out", packed[7:]])
    classified(packed, tmp_path / "run")
    assert_same_bits(leaves(tmp_path / "run"), leaves(trained))
    with pytest.raises(UserError, match="was packed with --bits 16, not 8"):
        classified(packed, tmp_path / "eight", "--steps", "2")


def test_an_exported_program_takes_16_bits(shades, trained, tmp_path):
    export.main([str(trained), "--platforms", "cpu", "--out", str(tmp_path)])
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["inputs"]["image"]["dtype"] == "uint16"
    assert description["preparation"].startswith("numbers of 16 bits, 0 to 65535, of RGB; ")
    program = jax_export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    images = [read(str(shades / f"val/{name}/1.png")) for name in ("dark", "bright")]
    # They have the network's size already, and are not resized.
    outputs = program.call({"image": np.stack(images)})
    for index, found in enumerate(predict.load(str(trained)).predict(images)):
        probabilities = np.asarray(outputs["probabilities"][index])
        np.testing.assert_allclose(probabilities, found["probabilities"], atol=1e-5)


def tagged(root, rng):
    lines = ["name,bright,dark"]
    for i in range(12):
        save(root / f"images/{i}.png", level(rng, 20670 - i % 2 * 175, channels=1))
        lines.append(f"{i}.png,{1 - i % 2},{i % 2}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    return ["--data", f"csv:{root / 'tags.csv'},{root / 'images'}", "--channels", "1", *SMALL]


def masked(root, rng):
    for split, count in (("train", 6), ("val", 3)):
        for i in range(count):
            mask = (rng.random((16, 16)) < 0.5).astype(np.uint8)
            pixels = level(rng, 20495) + np.uint16(175) * mask[..., None]
            save(root / f"images/{split}/{i}.png", pixels)
            cv2.imwrite(str(root / f"images/{split}/{i}.png"), pixels)
            (root / f"labels/{split}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / f"labels/{split}/{i}.png")
    (root / "classes.txt").write_text("ground\nspot\n")
    unet = ["--model", "unet_same", "--width", "0.0625", "--batch-size", "4"]
    return ["--data", f"masks:{root}", "--flip", *unet]


def boxed(root, rng):
    images, annotations = [], []
    for i in range(10):
        pixels = level(rng, 20495, side=24)
        pixels[4:16, 6:15] += np.uint16(200)
        save(root / f"images/{i}.png", pixels)
        images.append({"id": i, "file_name": f"{i}.png", "width": 24, "height": 24})
        box = {"bbox": [6, 4, 9, 12], "area": 108, "iscrowd": 0}
        annotations.append({"id": i, "image_id": i, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations}
    (root / "boxes.json").write_text(
        json.dumps({**content, "categories": [{"id": 1, "name": "spot"}]})
    )
    spec = f"coco:{root / 'boxes.json'},{root / 'images'}"
    found = ["--holdout-fraction", "0.2", "--min-score", "0", "--max-detections", "20"]
    return ["--data", spec, "--batch-size", "4", *found]


YOLO = ["--model", "fast_yolo", "--width", "0.03", "--image-size", "64", "--grid", "4"]
REGIONS = [
    *("--system", "fast_rcnn", "--model", "resnet20", "--width", "0.25", "--image-size", "32"),
    *("--proposals", "grid", "--max-proposals", "24", "--regions", "8", "--units", "8"),
    *("--pool-size", "2",),
]  # fmt: skip
CASES = {
    "annotate": (annotate, tagged, [], "images/0.png"),
    "segment": (segment, masked, [], "images/val/0.png"),
    "yolo": (detect, boxed, YOLO, "images/0.png"),
    "fast_rcnn": (detect, boxed, REGIONS, "images/0.png"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_task_trains_resumes_and_predicts_with_16_bits(case, tmp_path, capsys):
    verb, data, system, image = CASES[case]
    command = [*data(tmp_path, np.random.default_rng(0)), *system, *BITS, *STEPS]
    out = tmp_path / "run"
    verb.main([*command, "--out", str(out), "--steps", "2", "--checkpoint-every", "1"])
    if case != "fast_rcnn":  # whose steps take long to compile
        continued(verb, out, tmp_path / "stopped", 2)
    file = str(tmp_path / image)
    predicted_alike(out, file)
    capsys.readouterr()
    tta = ["--tta", "flip", "0.5"] if case in ("segment", "yolo") else []
    predict.main([str(out), file, *tta])
    assert capsys.readouterr().out
    for shown in (out / "predictions").glob("*"):
        with Image.open(shown) as picture:
            assert picture.mode in ("RGB", "P")


@pytest.mark.parametrize(
    ("verb", "given", "message"),
    [
        (classify, "--bits 16", "--bits: not used with --data shapes"),
        (classify, "--data folder:x --bits 12", "--bits 12: must be one of 8, 16"),
        (classify, "--data folder:x --bits 16 --policy rand", "--policy: only used with --bits 8"),
    ],
)
def test_what_has_no_16_bits_is_refused(verb, given, message):
    with pytest.raises(UserError, match=message):
        flags.parse(verb.Options, given.split(), verb.COMMAND.presets, verb.COMMAND.variant)


def test_a_preset_s_policy_is_passed_over(tmp_path):
    command = f"--data folder:{tmp_path} --preset resnet50_v2 --bits 16 --out x".split()
    options = flags.parse(classify.Options, command, classify.COMMAND.presets)
    assert options.augmentation.policy != "none"
    assert classify.build_task(options, ("a", "b")).augmentation.policy == "none"
