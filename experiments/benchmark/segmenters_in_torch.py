"""`cnn_jax.models.segnet` and `unet` in torch: for each pixel the logits of the classes."""

import torch
from torch import Tensor, nn

from cnn_jax import models

from . import scenes


class SegNet(nn.Module):
    """Badrinarayanan et al. 2017, section 3: the maxima's positions undo the pooling."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = models.create("segnet", scenes.CLASSES, kind="segmenter").stage_sizes
        widths = (64, 128, 256, 512, 512)
        self.encoder, decoder = nn.ModuleList(), []
        channels = 3
        for number, width in zip(convolutions, widths, strict=True):
            self.encoder.append(_units(channels, [width] * number))
            lower, channels = channels, width
            last = [] if lower == 3 else [lower]
            decoder.append(_units(width, [width] * (number - 1) + last))
        self.decoder = nn.ModuleList(reversed(decoder))
        self.head = nn.Conv2d(widths[0], scenes.CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape
            x, indices = nn.functional.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
            pooled.append((size, indices))
        for stage in self.decoder:
            size, indices = pooled.pop()
            x = stage(nn.functional.max_unpool2d(x, indices, 2, 2, output_size=size))
        return self.head(x)


def _units(channels: int, widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        convolution = nn.Conv2d(channels, width, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Ronneberger et al. 2015, section 2: without padding."""

    margin = 92

    def __init__(self) -> None:
        super().__init__()
        widths = [64, 128, 256, 512, 1024]
        ins = [3, *widths[:-1]]
        self.down = nn.ModuleList(_double(*sizes) for sizes in zip(ins, widths, strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, 2) for width in widths[-2::-1]
        )
        self.joined = nn.ModuleList(_double(2 * width, width) for width in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], scenes.CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for stage in self.down:
            if maps:
                x = nn.functional.max_pool2d(x, 2)
            x = stage(x)
            maps.append(x)
        maps.pop()
        for up, joined in zip(self.up, self.joined, strict=True):
            x, kept = up(x), maps.pop()
            top, left = ((a - b) // 2 for a, b in zip(kept.shape[2:], x.shape[2:], strict=True))
            kept = kept[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            x = joined(torch.cat([kept, x], 1))
        return self.head(x)


def _double(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (channels, width):
        layers += [nn.Conv2d(size, width, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
