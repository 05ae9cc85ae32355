"""Every task's command, killed with `kill -9` and resumed, ends with the bits of a whole run."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.checks import assert_same_bits
from tests.commands import leaves, rows, run_whole_and_killed

SIZE = 20
TRAIN, EVALUATED = 16, 8
WORDS = {"one": "一", "two": "二", "three": "三"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One bright square an image, as classes, tags, boxes and masks; and pairs of sentences."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    table = ["file,left,high"]
    for split, count in (("train", TRAIN), ("val", EVALUATED)):
        for kind in ("images", "labels", "coco"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            x, y = (int(v) for v in rng.integers(0, SIZE // 2, 2))
            pixels = rng.integers(0, 90, (SIZE, SIZE, 3)).astype(np.uint8)
            pixels[y : y + 8, x : x + 8] += 120
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[y : y + 8, x : x + 8] = 1
            by_class = root / "classes" / split / ("left" if x < SIZE // 4 else "right")
            by_class.mkdir(parents=True, exist_ok=True)
            file = f"{split}{i}.png"
            for folder in (root / "images" / split, by_class, root / "coco"):
                Image.fromarray(pixels).save(folder / file)
            Image.fromarray(mask).save(root / "labels" / split / file)
            table.append(f"{split}/{file},{int(x < SIZE // 4)},{int(y < SIZE // 4)}")
            images.append({"id": i, "file_name": file, "width": SIZE, "height": SIZE})
            box = {"bbox": [x, y, 8, 8], "area": 64, "iscrowd": 0}
            annotations.append({"id": i, "image_id": i, "category_id": 1, **box})
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 1, "name": "square"}]
        (root / f"{split}.json").write_text(json.dumps(content))
    (root / "tags.csv").write_text("\n".join(table) + "\n")
    sentences = [rng.choice(list(WORDS), rng.integers(1, 5)) for _ in range(120)]
    pairs = [f"{' '.join(words)}\t{''.join(WORDS[w] for w in words)}" for words in sentences]
    (root / "pairs.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    return root


SMALL = ["--width", "0.25", "--image-size", "16", "--batch-size", "8", "--eval-batch-size", "8"]
EVERY = ["--report-every", "4", "--eval-every", "12", "--checkpoint-every", "4"]
PAD = ["--learning-rate", "0.05", "--crop", "pad", "--flip"]
COMMANDS = {
    "classify": ["--data", "folder:{root}/classes", *SMALL, *PAD],
    "annotate": [
        *("--data", "csv:{root}/tags.csv,{root}/images", "--holdout-fraction", "0.25"),
        *("--model", "alexnet", "--stem", "small", *SMALL, "--width", "0.05", *PAD),
        *("--loss", "warp", "--warp-ranks", "sampled"),
    ],
    "detect": [
        *("--data", "coco:{root}/train.json,{root}/coco,{root}/val.json,{root}/coco"),
        *("--model", "fast_yolo", "--width", "0.03", "--image-size", "64", "--grid", "4"),
        *("--batch-size", "8", "--eval-batch-size", "8", "--max-objects", "3", "--warmup", "0"),
        *("--min-score", "0", "--max-detections", "40"),
        *("--learning-rate", "0.002", "--optimizer", "adam"),
    ],
    "segment": [
        *("--data", "masks:{root}", "--model", "segnet_basic", "--width", "0.0625"),
        *("--batch-size", "4", "--learning-rate", "0.02", "--flip"),
    ],
    "translate": [
        *("--data", "pairs:{root}/pairs.tsv", "--holdout-fraction", "0.15"),
        *("--embedding-size", "6", "--hidden-size", "8", "--batch-size", "8"),
        *("--eval-batch-size", "16", "--buckets", "2", "--max-length", "8"),
        *("--optimizer", "adam", "--learning-rate", "0.01", "--weight-decay", "0"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_killed_at_any_moment_and_resumed_a_run_ends_with_the_same_bits(verb, root, tmp_path):
    """Killed in the middle of a process of its own, then on to the end; `classify` three times."""
    command = [argument.format(root=root) for argument in COMMANDS[verb]]
    steps, moments = ("40", [4, 16, 28]) if verb == "classify" else ("24", [8])
    whole, killed = run_whole_and_killed(
        verb, tmp_path, [*command, *EVERY, "--steps", steps], moments
    )
    assert_same_bits(leaves(killed), leaves(whole))
    evaluations = [row for row in rows(whole) if row["split"] == "eval"]
    assert [row for row in rows(killed) if row["split"] == "eval"] == evaluations
    assert [row["step"] for row in evaluations][-1] == int(steps)
