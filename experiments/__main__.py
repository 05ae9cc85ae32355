"""`cnn-jax VERB ...` where installed; `python -m experiments VERB ...` in a clone."""

import importlib
import sys
from collections.abc import Sequence

from cnn_jax.errors import UserError, nearest

from . import options as flags

VERBS = {
    "classify": "train and evaluate an image classifier",
    "annotate": "train and evaluate a multi-label classifier",
    "detect": "train and evaluate a detector: YOLO, Fast R-CNN or R-CNN",
    "segment": "train and evaluate a segmenter",
    "translate": "train and evaluate a translator with attention",
    "predict": "apply a trained run to your own images or sentences",
    "explain": "show what a run's answers rest on: Grad-CAM, occlusion, maps, filters",
    "index": "index images, or the objects in them, for look-alike search",
    "similar": "find what looks like an image, or an object in it",
    "weights": "list published weights, make runs of them, and write runs for torch",
    "export": "write a run as one program that only needs JAX",
    "inspect": "look at data before training: counts, samples, leaks, what looks wrong",
    "pack": "decode data once, into files that training maps into memory",
    "sweep": "train one command with many settings and seeds, and compare them",
    "compare": "lay runs side by side",
    "claims": "test the claims of papers, each by a sweep over seeds",
    "benchmark": "measure speed and memory, also against other libraries",
    "tour": "train ten steps of a small classifier: the code to read first",
}
"""The entry points, in the order of `--help`, and a line about each."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the entry point that the first argument names.

    Raises:
        UserError: no such entry point.
    """
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help"):
        width = max(map(len, VERBS))
        print("usage: cnn-jax VERB [flags]\n")
        print("\n".join(f"  {name:<{width}}  {line}" for name, line in VERBS.items()))
        print("\ncnn-jax VERB --help lists the flags of a verb.")
        return
    if verb not in VERBS:
        raise UserError(f"{verb}: no such verb{nearest(verb, VERBS)}; cnn-jax --help lists them")
    # What the entry point reads, and writes into environment.json, as if it were called itself.
    sys.argv = [f"{sys.argv[0]} {verb}", *rest]
    name = f"{__package__}.{verb}"
    module = importlib.import_module(f"{name}.__main__" if verb == "benchmark" else name)
    module.main()


def console() -> None:
    """The console command `cnn-jax`."""
    flags.entry(main)


if __name__ == "__main__":
    console()
