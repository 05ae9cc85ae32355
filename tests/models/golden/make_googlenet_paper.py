"""Makes googlenet_paper.npz: what the paper's GoogLeNet answers in torch, for test_googlenet.py.

    pip install torch
    python tests/models/golden/make_googlenet_paper.py

torchvision has only the form with batch norm, so the network is written here again, from Table 1
and section 5 of the paper. Weights and images are made as for torchvision.npz.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from make import images, tensor

PATH = Path(__file__).with_name("googlenet_paper.npz")
IMAGES = (2, 224, 240, 3)
CLASSES = 10

# #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj
TABLE_1 = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Network:
    """The network without dropout; it notes the shape of each of its tensors."""

    def __init__(self):
        self.shapes = {}

    def _tensor(self, name, shape):
        self.shapes[name] = shape
        return torch.from_numpy(tensor(name, shape))

    def conv(self, name, x, channels, size, stride=1):
        weight = self._tensor(f"{name}.conv.weight", (channels, x.shape[1], size, size))
        bias = self._tensor(f"{name}.conv.bias", (channels,))
        return F.relu(F.conv2d(x, weight, bias, stride, padding=size // 2))

    def linear(self, name, x, channels):
        weight = self._tensor(f"{name}.weight", (channels, x.shape[1]))
        return F.linear(x, weight, self._tensor(f"{name}.bias", (channels,)))

    def pool(self, x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def normalize(self, x):
        # torch divides alpha by the number of channels in the window.
        return F.local_response_norm(x, 5, alpha=5 * 1e-4, beta=0.75, k=2.0)

    def inception(self, row, x):
        name = f"inception{row}"
        one, reduce_three, three, reduce_five, five, projection = TABLE_1[row]
        branches = [
            self.conv(f"{name}.branch1", x, one, 1),
            self.conv(
                f"{name}.branch2.1", self.conv(f"{name}.branch2.0", x, reduce_three, 1), three, 3
            ),
            self.conv(
                f"{name}.branch3.1", self.conv(f"{name}.branch3.0", x, reduce_five, 1), five, 5
            ),
            self.conv(f"{name}.branch4.1", F.max_pool2d(x, 3, 1, padding=1), projection, 1),
        ]
        return torch.cat(branches, dim=1)

    def auxiliary(self, name, x):
        x = self.conv(f"{name}.conv", F.avg_pool2d(x, 5, 3), 128, 1)
        x = F.relu(self.linear(f"{name}.fc1", x.flatten(1), 1024))
        return self.linear(f"{name}.fc2", x, CLASSES)

    def __call__(self, x):
        x = self.normalize(self.pool(self.conv("conv1", x, 64, 7, stride=2)))
        x = self.conv("conv3", self.conv("conv2", x, 64, 1), 192, 3)
        x = self.pool(self.normalize(x))
        x = self.inception("3b", self.inception("3a", x))
        x = self.inception("4a", self.pool(x))
        aux1 = self.auxiliary("aux1", x)
        for row in ("4b", "4c", "4d"):
            x = self.inception(row, x)
        aux2 = self.auxiliary("aux2", x)
        x = self.pool(self.inception("4e", x))
        x = self.inception("5b", self.inception("5a", x))
        return {"logits": self.linear("fc", x.mean((2, 3)), CLASSES), "aux1": aux1, "aux2": aux2}


def main() -> None:
    network = Network()
    answers = network(torch.from_numpy(images(IMAGES)).permute(0, 3, 1, 2))
    answers = {name: x.numpy() for name, x in answers.items()}
    for name, x in answers.items():
        print(name, "size", np.std(x), "of which by image", np.std(x[0] - x[1]))
    tensors = np.array(json.dumps(network.shapes))
    np.savez_compressed(PATH, tensors=tensors, shape=np.array(IMAGES), **answers)


if __name__ == "__main__":
    main()
