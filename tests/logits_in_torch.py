"""The logits of our networks beside torch's with the same weights, across two interpreters.

python -m tests.logits_in_torch write DIR [MODEL ...]     # with JAX: weights, images and logits
python tests/logits_in_torch.py compare DIR               # with torch, torchvision and maybe timm

`write` draws every array at random, batch statistics too, and names them as `weights to-torch`
does. `compare` loads them strictly and prints the largest difference over the largest logit.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

SIZES = {"inception_v3": 299}


def write(folder, names):
    """Write `MODEL.safetensors`, and its images and logits as `MODEL.npz`."""
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict
    from safetensors.numpy import save_file

    from cnn_jax import models
    from cnn_jax.models import published, weights

    folder.mkdir(parents=True, exist_ok=True)
    for name in names or sorted({row.model for row in published.table()}):
        model, rng = models.create(name), np.random.default_rng(0)
        side = SIZES.get(name, 224)
        images = rng.normal(size=(2, side, side, 3)).astype(np.float32)
        key = jax.random.key(0)
        shapes = jax.eval_shape(
            lambda images, model=model, key=key: model.init(
                {"params": key, "dropout": key}, images, train=True
            ),
            images,
        )
        flat = {
            path: drawn(path[-1], x.shape, rng) for path, x in flatten_dict(dict(shapes)).items()
        }
        variables = unflatten_dict(flat)
        logits = jax.jit(lambda v, x, model=model: model.apply(v, x, train=False)[0])(
            variables, images
        )
        save_file(weights.to_tensors(model, variables), folder / f"{name}.safetensors")
        np.savez(folder / f"{name}.npz", images=images, logits=np.asarray(logits))
        print(name, flush=True)


def drawn(leaf, shape, rng):
    """Random values that keep the signal's scale through the network."""
    if leaf == "kernel":
        return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
    if leaf in ("scale", "var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, 0.1, shape).astype(np.float32)


def compare(folder):
    """Print each network's relative error in torchvision and timm."""
    import torch
    import torchvision

    builders = {"torchvision": torchvision.models}
    if importlib.util.find_spec("timm"):
        import timm

        builders["timm"] = timm.models
    for path in sorted(folder.glob("*.npz")):
        name, content = path.stem, np.load(path)
        tensors = {k: torch.from_numpy(x) for k, x in read(path.with_suffix(".safetensors"))}
        images = torch.from_numpy(content["images"].transpose(0, 3, 1, 2).copy())
        for library, module in builders.items():
            if not hasattr(module, name) or (library == "timm" and name.startswith("vgg")):
                continue  # timm's VGGs have names of their own
            settings = {"aux_logits": True} if name in ("googlenet", "inception_v3") else {}
            if settings and library == "torchvision":
                settings |= {"transform_input": False, "init_weights": False}
            network = getattr(module, name)(**settings).eval()
            network.load_state_dict(tensors)
            with torch.inference_mode():
                logits = network(images)
            # timm's Inception gives those of its auxiliary head beside them.
            logits = (logits[0] if isinstance(logits, tuple) else logits).numpy()
            error = np.abs(logits - content["logits"]).max() / np.abs(logits).max()
            print(f"{name:18} {library:12} {error:.1e}", flush=True)


def read(path):
    """Yield the named arrays of a safetensors file; this interpreter may lack the library."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(content[begin:end], np.float32)
            yield name, values.reshape(entry["shape"]).copy()


if __name__ == "__main__":
    action, folder, *rest = sys.argv[1:]
    if action == "write":
        write(Path(folder), rest)
    else:
        compare(Path(folder))
