"""Writes detection_ops.npz, torchvision's boxes, NMS and RoI layers.

`python tests/golden/make_detection_ops.py`, with torchvision installed.
"""

from pathlib import Path

import numpy as np
import torch
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder

HEIGHT, WIDTH, CHANNELS = 13, 17, 3
SCALE = 1 / 16


def random_boxes(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """Boxes of whole and of fractional corners; some reach beyond [low, high]."""
    corners = rng.uniform(low, high, (count, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)
    boxes[: count // 2] = np.round(boxes[: count // 2] / 8) * 8
    return boxes.astype(np.float32)


def overlaps_and_encodings(rng: np.random.Generator) -> dict[str, np.ndarray]:
    boxes, others = random_boxes(rng, 12, -30, 90), random_boxes(rng, 12, -30, 90)
    others[3] = boxes[5]
    boxes = boxes[np.all(boxes[:, 2:] > boxes[:, :2], axis=1)]
    others = others[np.all(others[:, 2:] > others[:, :2], axis=1)]
    count = min(len(boxes), len(others))
    boxes, others = torch.tensor(boxes[:count]), torch.tensor(others[:count])
    cases = {"boxes": boxes, "others": others, "iou": ops.box_iou(boxes, others)}
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        coder = BoxCoder(weights)
        name = "/".join(map(str, weights))
        cases[f"encode/{name}"] = coder.encode_single(boxes, others)
        deltas = torch.tensor(rng.normal(0, 2, (count, 4)), dtype=torch.float32)
        deltas[0, 2:] = 60.0
        cases[f"deltas/{name}"] = deltas
        cases[f"decode/{name}"] = coder.decode_single(deltas, others)
    cases["clip"] = ops.clip_boxes_to_image(boxes, (40, 60))
    return {f"boxes/{name}": value.numpy() for name, value in cases.items()}


def suppression(rng: np.random.Generator) -> dict[str, np.ndarray]:
    cases = {}
    for image in range(6):
        centers, extents = rng.uniform(-40, 40, (80, 2)), rng.uniform(4, 40, (80, 2))
        boxes = np.concatenate([centers - extents / 2, centers + extents / 2], axis=1)
        boxes = torch.tensor(boxes, dtype=torch.float32)
        # Few distinct scores: ties go to the first box.
        scores = torch.tensor(rng.integers(0, 25, 80) / 25, dtype=torch.float32)
        labels = torch.tensor(rng.integers(0, 3, 80))
        cases[f"nms/{image}/boxes"], cases[f"nms/{image}/scores"] = boxes.numpy(), scores.numpy()
        cases[f"nms/{image}/labels"] = labels.numpy().astype(np.int32)
        for threshold in (0.3, 0.5, 0.7):
            kept = ops.nms(boxes, scores, threshold)
            cases[f"nms/{image}/kept/{threshold}"] = kept.numpy()
            by_label = ops.boxes._batched_nms_vanilla(boxes, scores, labels, threshold)
            cases[f"nms/{image}/kept_by_label/{threshold}"] = by_label.numpy()
    return cases


def regions(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """RoI layers and their gradients; features have ties, and some boxes lie outside the map."""
    features = rng.integers(-8, 9, (1, CHANNELS, HEIGHT, WIDTH)) / 4
    boxes = random_boxes(rng, 20, -20, max(HEIGHT, WIDTH) / SCALE + 20)
    boxes[0], boxes[1] = [100, 60, 100, 60], [0, 0, WIDTH / SCALE, HEIGHT / SCALE]
    boxes[2], boxes[3] = [-300, -300, -200, -200], [104, 72, 120, 88]
    cases = {"regions/features": features[0].transpose(1, 2, 0), "regions/boxes": boxes}

    def record(name: str, function, sizes) -> None:
        for size in sizes:
            x = torch.tensor(features, dtype=torch.float32, requires_grad=True)
            pooled = function(x, [torch.tensor(boxes)], size)
            weights = torch.tensor(rng.normal(size=pooled.shape), dtype=torch.float32)
            (pooled * weights).sum().backward()
            case = f"{name}/{size[0]}x{size[1]}"
            cases[f"{case}/pooled"] = pooled.detach().numpy().transpose(0, 2, 3, 1)
            cases[f"{case}/weights"] = weights.numpy().transpose(0, 2, 3, 1)
            cases[f"{case}/gradient"] = x.grad.numpy()[0].transpose(1, 2, 0)

    record("roi_pool", lambda x, b, size: ops.roi_pool(x, b, size, SCALE), ((7, 7), (2, 3)))
    for aligned in (False, True):
        for ratio in (1, 2, 3, -1):
            record(
                f"roi_align/{aligned}/{ratio}",
                lambda x, b, size, ratio=ratio, aligned=aligned: ops.roi_align(
                    x, b, size, SCALE, ratio, aligned
                ),
                ((4, 5),),
            )
    return cases


def rounding() -> dict[str, np.ndarray]:
    """Boxes whose last bin is a cell too long for float32's rounding, and some beside them."""
    features = torch.arange(130.0).reshape(1, 1, 1, 130)
    boxes = np.array([[3, 0, 3 + cells - 1, 0] for cells in (56, 57, 58, 114, 121)], np.float32)
    pooled = ops.roi_pool(features, [torch.tensor(boxes)], (1, 7), 1.0)
    return {"rounding/boxes": boxes, "rounding/pooled": pooled.numpy()[:, 0]}


def main() -> None:
    rng = np.random.default_rng(0)
    cases = overlaps_and_encodings(rng) | suppression(rng) | regions(rng) | rounding()
    cases = {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in cases.items()
    }
    np.savez_compressed(Path(__file__).with_name("detection_ops.npz"), **cases)


if __name__ == "__main__":
    main()
