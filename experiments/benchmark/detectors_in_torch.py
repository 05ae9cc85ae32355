"""YOLO and Fast R-CNN on VGG-16 in torch, with their losses on the truth of `scenes`."""

import torch
import torchvision
from torch import Tensor, nn

from cnn_jax import models

from . import scenes


class Yolo(nn.Module):
    """See `cnn_jax.models.yolo.Yolo`."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        net = models.create("yolo", scenes.CLASSES, kind="grid_detector")
        layers: list[nn.Module] = []
        channels, side = 3, image_size
        for stage in net.stages:
            if layers:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            for width, kernel, stride in stage:
                convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2)
                layers += [convolution, nn.LeakyReLU(0.1, inplace=True)]
                channels, side = width, -(-side // stride)
        self.features = nn.Sequential(*layers)
        outputs = scenes.GRID**2 * (5 * net.boxes_per_cell + scenes.CLASSES)
        hidden = net.hidden[0][0]
        self.outputs = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * side**2, hidden),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Dropout(net.dropout_rate),
            nn.Linear(hidden, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [batch, row, column, numbers]."""
        return self.outputs(self.features(x)).unflatten(1, (scenes.GRID, scenes.GRID, -1))


def yolo_loss(outputs: Tensor, boxes: Tensor, labels: Tensor, num_boxes: int = 2) -> Tensor:
    """The mean over the images of `cnn_jax.losses.yolo.yolo_loss`.

    Args:
        outputs: of `Yolo`.
        boxes: corners of the objects in shares of the image's sides, no two in one cell.
        labels: their classes.
        num_boxes: boxes of a cell.
    """
    grid, images = outputs.shape[1], torch.arange(len(outputs), device=outputs.device)[:, None]
    center, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    corner = (center * grid).floor()
    column, row = corner.long().unbind(-1)
    by_box = outputs[..., : 5 * num_boxes].unflatten(-1, (num_boxes, 5))
    confidence = by_box[..., 4]
    # What follows is of the cells that have an object: [image, object, box, ...].
    owned, of_class = by_box[images, row, column], outputs[images, row, column, 5 * num_boxes :]
    target = torch.cat([center * grid - corner, sides.sqrt()], -1)[:, :, None]
    with torch.no_grad():
        middle = (owned[..., :2] + corner[:, :, None]) / grid
        half = owned[..., 2:4] ** 2 / 2
        overlap = _iou(torch.cat([middle - half, middle + half], -1), boxes[:, :, None])
        distance = ((middle - center[:, :, None]) ** 2).sum(-1)
        distance = distance + ((2 * half - sides[:, :, None]) ** 2).sum(-1)
        found = (overlap > 0).any(-1)
        best = torch.where(found, overlap.argmax(-1), distance.argmin(-1))[..., None]
    error = ((owned[..., :4] - target) ** 2).sum(-1).gather(-1, best).sum()
    responsible = owned[..., 4].gather(-1, best)
    of_objects = ((responsible - overlap.gather(-1, best)) ** 2).sum()
    of_rest = (confidence**2).sum() - (responsible**2).sum()
    classes = nn.functional.cross_entropy(of_class.flatten(0, 1), labels.flatten(), reduction="sum")
    return (5 * error + of_objects + 0.5 * of_rest + classes) / len(outputs)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The overlaps of pairs of boxes."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)


class FastRCNN(nn.Module):
    """Girshick 2015, section 2.1, on VGG-16: its convolutions, its two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        net = torchvision.models.vgg16(weights=None, init_weights=False)
        self.features = net.features[:-1]  # without the last pooling
        self.hidden = net.classifier[:-1]
        self.score = nn.Linear(4096, 1 + scenes.CLASSES)
        self.box = nn.Linear(4096, 4 * scenes.CLASSES)

    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [regions, 1 + classes] and encoded boxes [regions, classes, 4] of all images."""
        maps = self.features(x)
        pooled = torchvision.ops.roi_pool(maps, list(regions.to(maps.dtype)), 7, 1 / 16)
        hidden = self.hidden(pooled.flatten(1))
        return self.score(hidden), self.box(hidden).unflatten(-1, (-1, 4))


def region_loss(
    scores: Tensor, deltas: Tensor, regions: Tensor, boxes: Tensor, labels: Tensor
) -> Tensor:
    """The mean over the regions of Girshick 2015, equation 1.

    Args:
        scores, deltas: of `FastRCNN`.
        regions: as `scenes.inputs` orders them.
        boxes: the objects of the images.
        labels: their classes.
    """
    regions = regions.unflatten(1, (scenes.OBJECTS, -1))
    count = regions.shape[2]
    near = torch.arange(count, device=labels.device) < count // 4
    truth = torch.where(near, labels[..., None] + 1, 0).flatten()
    target = _encoded(boxes[:, :, None], regions).flatten(0, 2)
    objects = torch.where(truth > 0)[0]
    own = deltas[objects, truth[objects] - 1]
    of_box = nn.functional.smooth_l1_loss(own, target[objects], reduction="sum")
    return nn.functional.cross_entropy(scores, truth) + of_box / len(truth)


def _encoded(boxes: Tensor, regions: Tensor) -> Tensor:
    """R-CNN's box targets, divided by the deviations that are usual for them."""
    sides, own = boxes[..., 2:] - boxes[..., :2], regions[..., 2:] - regions[..., :2]
    moved = (boxes[..., :2] + boxes[..., 2:] - regions[..., :2] - regions[..., 2:]) / (2 * own)
    return torch.cat([moved / 0.1, (sides / own).log() / 0.2], -1)
