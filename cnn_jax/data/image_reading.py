"""The way in which the images of a source are read: their size, channels and bits."""

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cnn_jax.data.decode import DraftSize, Pixels, decode_scaled
from cnn_jax.data.deep import decode_deep

Bits = Literal[8, 16]
"""The bits of a channel."""


@dataclass(frozen=True)
class Reading:
    """The way in which the images of a source are decoded.

    Attributes:
        draft_size, channels: see `cnn_jax.data.decode.decode`.
        bits: 16 for images of 16 bits, as `cnn_jax.data.deep` makes them.
    """

    draft_size: DraftSize | None = None
    channels: int = 3
    bits: Bits = 8

    @property
    def dtype(self) -> np.dtype:
        """The type of the values of pixels."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint8)

    def decode(self, file: bytes | str | os.PathLike[str], name: str | None = None) -> Pixels:
        """Decode as `cnn_jax.data.decode.decode` does."""
        return self.decode_scaled(file, name)[0]

    def decode_scaled(
        self, file: bytes | str | os.PathLike[str], name: str | None = None
    ) -> tuple[Pixels, int]:
        """Decode as `cnn_jax.data.decode.decode_scaled` does."""
        decoder = decode_deep if self.bits == 16 else decode_scaled
        return decoder(file, name=name, draft_size=self.draft_size, channels=self.channels)


RGB = Reading()
"""The usual reading: RGB images of 8 bits at full size."""
