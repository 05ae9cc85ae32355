"""Write `archive.pth` and `stream.pth`: one object in both of torch's formats.

Run it with torch installed: `python tests/models/golden/make_torch_files.py`. The tests of
`cnn_jax.models.torch_files` read the files without it.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import torch


def content() -> dict:
    """What a training tool keeps: weights of several types and layouts, and much else."""
    numbers = torch.arange(24, dtype=torch.float32) / 8
    module = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(module.weight, 0.5)
    torch.nn.init.constant_(module.bias, -1)
    return {
        "state_dict": OrderedDict(
            whole=numbers.reshape(2, 3, 4),
            view=numbers[4:16].reshape(3, 4).T,
            half=numbers[:4].half(),
            bfloat16=numbers[:4].bfloat16(),
            double=numbers[:4].double(),
            count=torch.tensor(7),
            mask=torch.tensor([True, False]),
            none=torch.zeros(0, 3),
            expanded=torch.tensor([2.0]).expand(1),
        ),
        "module": module.state_dict(),
        "parameter": torch.nn.Parameter(numbers[:2]),
        "args": argparse.Namespace(lr=0.1),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "epoch": 3,
        "history": [1.0, {"loss": numbers[0]}],
    }


if __name__ == "__main__":
    for name, archive in (("archive", True), ("stream", False)):
        path = Path(__file__).with_name(f"{name}.pth")
        torch.save(content(), path, _use_new_zipfile_serialization=archive)
