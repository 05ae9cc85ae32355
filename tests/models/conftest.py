"""The weights and answers of another library's networks, for the tests of ours."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

MAKER = Path(__file__).parent / "golden" / "make.py"


class Golden:
    """Load the outputs of golden/make.py, and its weights and images.

    Attributes:
        answers: arrays by "NETWORK.logits", "NETWORK.training.FIELD" and "version".
    """

    def __init__(self, maker: ModuleType):
        self._maker = maker
        self.answers = np.load(maker.PATH)

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """The names and shapes of all tensors of torchvision's network `name`."""
        shapes = json.loads(self.answers[f"{name}.tensors"].item())
        return {key: tuple(shape) for key, shape in shapes.items()}

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights with which torchvision's network `name` gave its answers."""
        return {key: self._maker.tensor(key, shape) for key, shape in self.shapes(name).items()}

    def images(self, name: str, training: bool = False) -> np.ndarray:
        """The images to which it gave them."""
        shape = self._maker.TRAINING_IMAGES[name] if training else self._maker.IMAGES
        return self._maker.images(shape)


@pytest.fixture(scope="session")
def golden() -> Golden:
    spec = importlib.util.spec_from_file_location("golden_make", MAKER)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return Golden(maker)
