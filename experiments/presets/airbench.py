"""What recipes share that train the network of Jordan 2024 (arXiv 2404.00498) as the paper does."""

from typing import Any

NESTEROV = 1 + 1 / (1 - 0.85)
"""How much farther than its gradient Nesterov's momentum of 0.85 goes in the end."""

TRAINING: dict[str, Any] = {
    "model": "airbench94",
    "optimizer": "sgd",
    "momentum": 0.85,
    "nesterov": True,
    "decoupled": True,
    "bias_rate": 64.0,
    "bias_rate_on": "norms",
    # A triangle: from 0.2 up to 1 at 23 % of the run, and down to 0.07.
    "schedule": "polynomial",
    "power": 1.0,
    "warmup_start": 0.2,
    "final": 0.07,
    "lookahead": 5,
    "lookahead_decay": 0.95**5,
    "lookahead_power": 3.0,
    "crop": "pad",
    "padding_mode": "reflect",
    "flip": True,
    "flip_mode": "alternating",
}
"""The network, the optimizer and the augmentation, without rates, sizes and lengths."""
