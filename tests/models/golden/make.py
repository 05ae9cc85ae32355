"""Makes torchvision.npz: what torchvision's networks answer, for the tests of ours.

    pip install torch torchvision
    python tests/models/golden/make.py

The weights are a function of each tensor's name and shape, and the images of their shape, so that
the file holds only the names and shapes of the tensors and the answers. Torch is imported only when
this is run: the tests take `tensor` and `images` from here.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("torchvision.npz")

# Not square, and large enough for every network that rows and columns differ on its last map too.
IMAGES = (2, 96, 128, 3)

NAMES = (
    "alexnet",
    "alexnet_paper",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
    "googlenet",
    "inception_v3",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
)
# One network of each family with batch norm also answers in training mode, without dropout, to
# images of this shape: more cells of the last map make its statistics well conditioned, and
# Inception-v3's auxiliary head needs the whole 299 pixels.
TRAINING_IMAGES = {
    "vgg11_bn": (4, 128, 128, 3),
    "googlenet": (4, 128, 128, 3),
    "inception_v3": (2, 299, 299, 3),
    "resnet18": (4, 128, 128, 3),
    "resnet50": (4, 128, 128, 3),
    "densenet121": (4, 128, 128, 3),
}


def uniform(seed: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 numbers in -1..1, the same ones on every machine and with every NumPy.

    They are made of the generator's bits: NumPy may change its distributions, not its bits.
    """
    count = math.prod(shape)
    bits = np.random.PCG64(zlib.crc32(seed.encode())).random_raw((count + 1) // 2)
    integers = bits.astype("<u8").view("<i4")[:count]
    return (integers / np.float32(2**31)).astype(np.float32).reshape(shape)


def images(shape: tuple[int, ...]) -> np.ndarray:
    """Normalised images, NHWC, float32."""
    return np.float32(2) * uniform("images", shape)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights called `name` in torch, such that activations neither vanish nor explode."""
    x = uniform(name, shape)
    if name.endswith("running_var"):
        return 1 + x / 2
    if name.endswith(("running_mean", "bias")):
        return x / 5
    if len(shape) == 1:
        # The scale of a batch norm. Where a residual is added, below 1 keeps the sum from growing.
        return (0.7 if "layer" in name and "dense" not in name else 1.0) + x / 5
    # He's variance for a uniform distribution, 2 / fan_in.
    return x * np.float32(math.sqrt(6 / math.prod(shape[1:])))


def alexnet_paper():
    """Krizhevsky et al. 2012 in torch, with the names of torchvision's AlexNet."""
    import torch
    from torch import nn

    network = nn.Module()
    network.features = nn.ModuleDict(
        {
            "0": nn.Conv2d(3, 96, 11, stride=4),
            "3": nn.Conv2d(96, 256, 5, padding=2, groups=2),
            "6": nn.Conv2d(256, 384, 3, padding=1),
            "8": nn.Conv2d(384, 384, 3, padding=1, groups=2),
            "10": nn.Conv2d(384, 256, 3, padding=1, groups=2),
        }
    )
    network.classifier = nn.ModuleDict(
        {"1": nn.Linear(256 * 6 * 6, 4096), "4": nn.Linear(4096, 4096), "6": nn.Linear(4096, 1000)}
    )
    pool, relu = nn.MaxPool2d(3, 2), nn.ReLU()
    # The paper's alpha is of the window's sum, torch's of its mean.
    norm = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)

    def forward(x):
        conv1, conv2, conv3, conv4, conv5 = network.features.values()
        dense1, dense2, head = network.classifier.values()
        x = pool(norm(relu(conv1(x))))
        x = pool(norm(relu(conv2(x))))
        x = pool(relu(conv5(relu(conv4(relu(conv3(x)))))))
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, 6), 1)
        return head(relu(dense2(relu(dense1(x)))))

    network.forward = forward
    return network


def main() -> None:
    import torch
    import torchvision

    def run(network, shape: tuple[int, ...]):
        with torch.no_grad():
            return network(torch.from_numpy(images(shape)).permute(0, 3, 1, 2))

    answers = {"version": np.array(torchvision.__version__)}
    for name in NAMES:
        if name == "alexnet_paper":
            network = alexnet_paper()
        elif name in ("googlenet", "inception_v3"):
            network = getattr(torchvision.models, name)(
                weights=None, aux_logits=True, transform_input=False, init_weights=False
            )
        else:
            network = getattr(torchvision.models, name)(weights=None)
        tensors = network.state_dict()
        for key, x in tensors.items():
            if x.dtype.is_floating_point:
                x.copy_(torch.from_numpy(tensor(key, tuple(x.shape))))
        shapes = {key: tuple(x.shape) for key, x in tensors.items()}
        answers[f"{name}.tensors"] = np.array(json.dumps(shapes))

        logits = run(network.eval(), IMAGES).numpy()
        answers[f"{name}.logits"] = logits
        print(name, "size", np.std(logits), "of which by image", np.std(logits[0] - logits[1]))

        if name in TRAINING_IMAGES:
            network.train()
            for module in network.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            output = run(network, TRAINING_IMAGES[name])
            if isinstance(output, tuple):
                for field, value in output._asdict().items():
                    answers[f"{name}.training.{field}"] = value.numpy()
            else:
                answers[f"{name}.training.logits"] = output.numpy()
    np.savez_compressed(PATH, **answers)


if __name__ == "__main__":
    main()
