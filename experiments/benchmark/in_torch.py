"""torch as a contender: with `seq2seq_in_torch` the only place that imports it to compute."""

import itertools
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cnn_jax import models
from cnn_jax.errors import UserError

from . import operations, scenes, sentences
from .contest import Job, Prepared

try:
    import torch
    import torchvision
    from torch import nn
    from torchvision.models.resnet import BasicBlock
except ImportError as error:
    raise UserError(
        f"--against torch: needs torch and torchvision ({error}); pip install 'cnn_jax[torch]'"
    ) from error


def prepare(job: Job) -> Prepared:
    """Build what the job needs, up to its first step."""
    match job.work:
        case "data" | "readers":
            return _data(job)
        case "ops":
            return _operation(job)
        case "translate":
            return _translator(job)
        case "train" if job.model in scenes.SIZES:
            return _on_scenes(job)
        case _:
            return _network(job)


def network(name: str, num_classes: int) -> nn.Module:
    """The same architecture in torch.

    Raises:
        UserError: torchvision has none of that name, and it is no CIFAR ResNet or DenseNet either.
    """
    if name == "densenet_bc_100_12":
        return _cifar_densenet(num_classes)
    if name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"):
        return _CifarResNet((int(name.removeprefix("resnet")) - 2) // 6, num_classes)
    build = getattr(torchvision.models, name, None)
    if name not in models.names() or build is None:
        raise UserError(f"--against torch: torchvision has no {name}")
    heads = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return build(weights=None, num_classes=num_classes, **heads)


def network_of_scenes(job: Job) -> nn.Module:
    """The same segmenter or detector in torch."""
    # Not before torch is known to be there.
    from . import detectors_in_torch, segmenters_in_torch

    match job.model:
        case "segnet":
            return segmenters_in_torch.SegNet()
        case "unet":
            return segmenters_in_torch.UNet()
        case "yolo":
            return detectors_in_torch.Yolo(job.image_size)
    return detectors_in_torch.FastRCNN()


class _CifarResNet(nn.Module):
    """He et al. 2016, section 4.2, of torchvision's blocks; shortcuts A have no parameters."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        stages, channels = [], 16
        for stage in (16, 32, 64):
            for _ in range(blocks):
                stride = 1 if stage == channels else 2
                shortcut = None if stride == 1 else _Subsampled()
                stages.append(BasicBlock(channels, stage, stride, shortcut))
                channels = stage
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


class _Subsampled(nn.Module):
    """Every second pixel, and zeros for the new channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = x.shape[1] // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))


def _cifar_densenet(num_classes: int) -> nn.Module:
    """Huang et al. 2017, DenseNet-BC, L = 100, k = 12."""
    net = torchvision.models.DenseNet(12, (16, 16, 16), 24, num_classes=num_classes)
    net.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, nn.Identity())
    return net


def _network(job: Job) -> Prepared:
    """Training or inference on one batch that lies on the device, channels last."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = network(job.model, job.num_classes).to(device, memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in net.parameters())
    shape = (job.batch_size, 3, job.image_size, job.image_size)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, job.num_classes, (job.batch_size,), device=device)
    net.train(job.work == "train")
    forward = torch.compile(net) if job.compiled else net
    precision = torch.autocast(device.type, torch.bfloat16, enabled=job.dtype == "bfloat16")
    if job.work == "train":

        def loss() -> torch.Tensor:
            with precision:
                return _loss(job.model, forward(images), labels)

        step = _trained(net, loss)
    else:

        def step() -> None:
            with torch.inference_mode(), precision:
                forward(images)

    facts = {"parameters": parameters, "torch": torch.__version__}
    return Prepared(_repeated(step), lambda: facts, _peak_memory)


def _on_scenes(job: Job) -> Prepared:
    """Training of a segmenter or a detector on one batch of scenes that lies on the device."""
    # Not before torch is known to be there.
    from .detectors_in_torch import region_loss, yolo_loss

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = network_of_scenes(job).to(device, memory_format=torch.channels_last)
    made = scenes.inputs(job.batch_size, job.image_size, getattr(net, "margin", 0))
    boxes, regions = (torch.from_numpy(rows).to(device) for rows in (made.boxes, made.regions))
    labels, mask = (torch.from_numpy(x).long().to(device) for x in (made.labels, made.mask))
    images = torch.from_numpy(made.image).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
    images = images.to(memory_format=torch.channels_last)
    forward = torch.compile(net) if job.compiled else net
    precision = torch.autocast(device.type, torch.bfloat16, enabled=job.dtype == "bfloat16")

    def loss() -> torch.Tensor:
        with precision:
            outputs = forward(images, regions) if job.model == "fast_rcnn" else forward(images)
        if job.model == "fast_rcnn":
            scores, deltas = outputs
            return region_loss(scores.float(), deltas.float(), regions, boxes, labels)
        if job.model == "yolo":
            return yolo_loss(outputs.float(), boxes / job.image_size, labels)
        return nn.functional.cross_entropy(outputs.float(), mask)

    facts = {"parameters": sum(p.numel() for p in net.parameters()), "torch": torch.__version__}
    return Prepared(_repeated(_trained(net, loss)), lambda: facts, _peak_memory)


def _trained(net: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A training step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def _translator(job: Job) -> Prepared:
    """Training steps of the translator, teacher forcing, on one batch of sentences."""
    # Not before torch is known to be there.
    from .seq2seq_in_torch import Seq2Seq

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = Seq2Seq(
        sentences.SOURCE_SIZE,
        sentences.TARGET_SIZE,
        sentences.EMBEDDING_SIZE,
        sentences.HIDDEN_SIZE,
        sentences.DROPOUT_RATE,
    ).to(device)
    source, target = (
        torch.from_numpy(tokens).long().to(device) for tokens in sentences.inputs(job.batch_size)
    )
    forward = torch.compile(net) if job.compiled else net
    precision = torch.autocast(device.type, torch.bfloat16, enabled=job.dtype == "bfloat16")
    optimizer = torch.optim.Adam(net.parameters(), lr=sentences.LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision:
            loss = nn.functional.cross_entropy(
                forward(source, target).flatten(0, 1),
                target.flatten(),
                label_smoothing=sentences.LABEL_SMOOTHING,
            )
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), sentences.CLIP_NORM)
        optimizer.step()

    parameters = sum(p.numel() for p in net.parameters())
    facts = {"parameters": parameters, "torch": torch.__version__}
    return Prepared(_repeated(step), lambda: facts, _peak_memory)


def _repeated(step: Callable[[], Any]) -> Callable[[int], None]:
    """So many steps, and waiting until the device has done them."""

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def _loss(name: str, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, with the auxiliary heads' at the weight that this project gives them."""
    if isinstance(outputs, torch.Tensor):
        return nn.functional.cross_entropy(outputs, labels)
    main, *auxiliary = outputs
    weight = models.options(name)["auxiliary_weight"]
    losses = [nn.functional.cross_entropy(a, labels) for a in auxiliary]
    return nn.functional.cross_entropy(main, labels) + weight * sum(losses)


def _data(job: Job) -> Prepared:
    """torchvision's reference transforms in a DataLoader with one process a core."""
    transforms = torchvision.transforms.Compose(
        [
            torchvision.transforms.RandomResizedCrop(job.image_size, antialias=True),
            torchvision.transforms.RandomHorizontalFlip(),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    folder = Path(job.folder)
    training = folder / "train" if (folder / "train").is_dir() else folder
    loader = torch.utils.data.DataLoader(
        torchvision.datasets.ImageFolder(str(training), transforms),
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers or os.cpu_count() or 1,
        persistent_workers=True,
    )

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    stream = forever()

    def run(steps: int) -> None:
        for images, _ in itertools.islice(stream, steps):
            images.sum()

    return Prepared(run, lambda: {"torch": torch.__version__}, _peak_memory)


def _operation(job: Job) -> Prepared:
    """torchvision's operation on one image's boxes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = operations.inputs(job.batch_size)
    boxes, scores = (torch.from_numpy(x).to(device) for x in (given.boxes, given.scores))
    features = torch.from_numpy(given.features).permute(2, 0, 1)[None].contiguous().to(device)
    of_image = torch.cat([torch.zeros(len(boxes), 1, device=device), boxes], dim=1)
    scale, ops = 1 / operations.STRIDE, torchvision.ops

    def pool() -> torch.Tensor:
        return ops.roi_pool(features, of_image, operations.BINS, scale)

    def align() -> torch.Tensor:
        return ops.roi_align(
            features, of_image, operations.BINS, scale, operations.SAMPLES, aligned=True
        )

    calls = {
        "box_iou": lambda: ops.box_iou(boxes, boxes),
        "nms": lambda: ops.nms(boxes, scores, operations.THRESHOLD),
        "roi_pool": pool,
        "roi_align": align,
        "roi_pool_gradient": lambda: torch.autograd.grad(pool().sum(), features),
        "roi_align_gradient": lambda: torch.autograd.grad(align().sum(), features),
    }
    call, trains = calls[job.model], job.model.endswith("_gradient")
    features.requires_grad_(trains)

    def step() -> None:
        with torch.set_grad_enabled(trains):
            call()

    return Prepared(_repeated(step), lambda: {"torch": torch.__version__}, _peak_memory)


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
