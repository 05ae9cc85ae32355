"""JPEG files that are decoded at a part of their size: boxes and masks stay where they are."""

import json

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data.transforms import BoxTransform, MaskTransform

BOX = np.array([101.0, 60.0, 301.0, 259.0])


def picture(height, width):
    """A dark picture with one bright box."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    x1, y1, x2, y2 = BOX.astype(int)
    pixels[y1:y2, x1:x2] = 230
    return pixels


def write(folder, height, width, orientation):
    """The picture as a camera stores it, and its box in COCO's and in YOLO's format."""
    (folder / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(picture(height, width)) if orientation == 6 else picture(height, width)
    Image.fromarray(stored).save(folder / "images" / "a.jpg", exif=exif, quality=95)
    x1, y1, x2, y2 = BOX.tolist()
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    center = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(
        f"0 {center[0]:.9f} {center[1]:.9f} {(x2 - x1) / width:.9f} {(y2 - y1) / height:.9f}\n"
    )
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [box]\n")


@pytest.mark.parametrize("size", [(400, 640), (401, 643)])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_boxes_of_a_smaller_copy_are_those_of_the_image(tmp_path, size, orientation, kind):
    write(tmp_path, *size, orientation)
    file, images = tmp_path / "boxes.json", tmp_path / "images"
    coco = f"coco:{file},{images},{file},{images}"
    spec = {"coco": coco, "yolo": f"yolo:{tmp_path / 'data.yaml'}"}[kind]

    def opened(draft_size):
        return data.open_source(spec, "train", formats=data.BOX_FORMATS, draft_size=draft_size)[0]

    whole, small = opened(None), opened(90)
    assert small["image"].shape[:2] == tuple(-(-side // 4) for side in size)
    np.testing.assert_allclose(small["boxes"], [BOX], atol=1e-3)
    np.testing.assert_array_equal(small["boxes"], whole["boxes"])
    np.testing.assert_array_equal(small["area"], whole["area"])
    transform = BoxTransform(90, 2)
    whole, small = transform(whole), transform(small)
    # Their difference is that of a last pixel that lies partly outside of the image.
    np.testing.assert_allclose(small["size"], whole["size"], atol=3)
    np.testing.assert_allclose(small["boxes"], whole["boxes"], atol=0.7)
    # Both ways back lead to the box in the image.
    for made in (whole, small):
        back = made["boxes"][0] * np.tile(made["size"][::-1], 2) / 90
        np.testing.assert_allclose(back, BOX, atol=1e-3)
        # The box lies on the bright pixels.
        bright = np.argwhere(made["image"][..., 0] > 125)
        (y1, x1), (y2, x2) = bright.min(axis=0), bright.max(axis=0) + 1
        np.testing.assert_allclose(made["boxes"][0], [x1, y1, x2, y2], atol=0.8)


def test_a_mask_beside_a_smaller_copy_keeps_its_own_pixels(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    pixels = picture(400, 640)
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpg", quality=95)
    mask = (pixels[..., 0] > 125).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "labels" / "a.png")

    def opened(draft_size):
        spec, formats = f"masks:{tmp_path}", data.MASK_FORMATS
        settings = {"class_names": ("dark", "bright"), "holdout_fraction": 0.0}
        return data.open_source(spec, "train", formats=formats, draft_size=draft_size, **settings)

    small, transform = opened((100, 90)), MaskTransform((100, 90), resized=True)
    assert small[0]["image"].shape == (100, 160, 3)  # a quarter: as many rows as are wanted
    np.testing.assert_array_equal(small[0]["mask"], mask)
    made, whole = transform(small[0]), transform(opened(None)[0])
    np.testing.assert_array_equal(made["mask"], whole["mask"])
    assert np.abs(made["image"].astype(int) - whole["image"]).mean() < 2
    agreeing = (made["image"][..., 0] > 125) == made["mask"]
    assert agreeing.mean() > 0.985
