"""Writes losses.json, torch's losses and gradients: `python tests/golden/make_losses.py`."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional


def main() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(6, 7)) * np.array([[0.1], [1], [3], [10], [100], [1000]])).round(3)
    labels = rng.integers(0, 7, size=6)
    soft = rng.dirichlet(np.ones(7), size=6).round(6)
    soft[1] = np.eye(7)[3]
    soft /= soft.sum(axis=1, keepdims=True)
    cases = {"logits": logits.tolist(), "labels": labels.tolist(), "soft": soft.tolist()}
    for smoothing in (0.0, 0.1):
        for name, target in (("labels", labels), ("soft", soft)):
            x = torch.tensor(logits, requires_grad=True)
            loss = functional.cross_entropy(
                x, torch.tensor(target), label_smoothing=smoothing, reduction="none"
            )
            loss.sum().backward()
            key = f"cross_entropy/{name}/{smoothing}"
            cases[key] = {"loss": loss.tolist(), "gradient": x.grad.tolist()}
    weights = [0.5, 1.0, 3.0, 0.25, 2.0, 1.5, 0.1]
    cases["weights"] = weights
    for smoothing in (0.0, 0.1):
        for name, target in (("labels", labels), ("soft", soft)):
            x = torch.tensor(logits, requires_grad=True)
            loss = functional.cross_entropy(
                x,
                torch.tensor(target),
                weight=torch.tensor(weights, dtype=torch.float64),
                label_smoothing=smoothing,
                reduction="none",
            )
            loss.sum().backward()
            key = f"weighted_cross_entropy/{name}/{smoothing}"
            cases[key] = {"loss": loss.tolist(), "gradient": x.grad.tolist()}
    x = torch.tensor(logits, requires_grad=True)
    loss = functional.binary_cross_entropy_with_logits(x, torch.tensor(soft), reduction="none")
    loss.sum().backward()
    cases["sigmoid_cross_entropy"] = {"loss": loss.tolist(), "gradient": x.grad.tolist()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    Path(__file__).with_name("losses.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
