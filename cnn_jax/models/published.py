"""Weights by name: `torchvision:resnet50` and `hf:timm/resnet50.tv_in1k` become files.

A file is looked for in the folder that the user names, then in this machine's cache, then at its
published address. `published.csv` has what the libraries publish for our architectures: torchvision
the accuracies of its own recipes (`torchvision.models.get_model_weights`), timm those of its table
`results/results-imagenet.csv`, each at the size where it is best. Weights that expect images of
another normalisation than our architecture's are not in it.
"""

import csv
import functools
import hashlib
import http.client
import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from cnn_jax import files
from cnn_jax.errors import UserError, nearest
from cnn_jax.progress import track
from cnn_jax.reading import require_file

TORCHVISION, HUB = "torchvision:", "hf:"
ADDRESS_VARIABLE = "CNN_JAX_TORCHVISION_URL"
"""The environment variable with the address of a mirror of torchvision's files."""

_ADDRESS = "https://download.pytorch.org/models"
_HUB_FILE = "model.safetensors"
_PART = 2**20
_SECONDS = 30  # without an answer


class Published(NamedTuple):
    """Weights that a library publishes.

    Attributes:
        name: as a user gives it.
        model: our architecture.
        file: the name of the file.
        top1: accuracy on ImageNet's validation set in percent, as the library states it.
        size: rows and columns of the images with which it was measured.
        resize: the shorter side before the centre crop, in pixels.
        licence: as timm states it; torchvision's is that of its code. The terms of the data that
            they were trained on may hold besides.
    """

    name: str
    model: str
    file: str
    top1: float
    size: int
    resize: int
    licence: str


class Found(NamedTuple):
    """A file of weights.

    Attributes:
        path: the file.
        sha256: of its content, in hexadecimal digits.
        licence: of the weights; "unknown" where nobody states one.
    """

    path: Path
    sha256: str
    licence: str


@functools.cache
def table() -> tuple[Published, ...]:
    """All weights that are known, by library, architecture and accuracy."""
    text = resources.files(__package__).joinpath("published.csv").read_text()
    return tuple(
        Published(
            row["name"],
            row["model"],
            row["file"],
            float(row["top1"]),
            int(row["size"]),
            int(row["resize"]),
            row["licence"],
        )
        for row in csv.DictReader(text.splitlines())
    )


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes in the order of the published weights' logits."""
    return tuple(
        resources.files(__package__).joinpath("imagenet_classes.txt").read_text().splitlines()
    )


def is_name(text: str) -> bool:
    """Tell a name of weights from a path."""
    return text.startswith((TORCHVISION, HUB))


def known(name: str) -> Published | None:
    """The weights of a name; None for a repository of the Hub that is not in the table.

    `torchvision:MODEL` are the newest of torchvision's weights for it, as `DEFAULT` there.

    Raises:
        UserError: torchvision has no weights of this name for an architecture here, or the name is
            no repository's.
    """
    rows = {row.name: row for row in table()}
    if name in rows:
        return rows[name]
    if name.startswith(TORCHVISION):
        own = [row for row in table() if row.name.partition(".")[0] == name]
        if own:
            return max(own, key=lambda row: row.name)
        raise UserError(
            f"{name}: unknown weights{nearest(name, rows)}; "
            "`python -m experiments.weights list` shows all"
        )
    if not re.fullmatch(r"hf:[\w.-]+/[\w.-]+", name):
        raise UserError(f"{name}: must be hf:OWNER/NAME, as hf:timm/resnet50.tv_in1k")
    return None


def fetch(name: str, folder: str | Path | None = None) -> Found:
    """Find the file of weights by their name: in a folder, in the cache, or at their address.

    Args:
        name: of the weights.
        folder: looked at first. torchvision's files lie there under their own names, those of the
            Hub as `OWNER/NAME/model.safetensors`.

    Raises:
        UserError: the name is unknown; the file cannot be fetched, and the message names the one to
            put into the folder; or it is not the published one.
    """
    row = known(name)
    if name.startswith(TORCHVISION):
        assert row is not None
        place, get = Path(row.file), _from_torchvision
    else:
        place, get = Path(name.removeprefix(HUB)) / _HUB_FILE, _from_hub
    path = None if folder is None else Path(folder) / place
    if path is None or not path.exists():
        path = get(name, place)
    require_file(path)
    digest = _sha256(path)
    _check(path, digest)
    return Found(path, digest, row.licence if row else "unknown")


def cache() -> Path:
    """The folder of the files that were fetched from torchvision."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "cnn_jax" / "weights"


def _from_torchvision(name: str, place: Path) -> Path:
    """Fetch a file of torchvision into the cache, whole or not at all."""
    path = cache() / place
    if path.exists():
        return path
    address = f"{os.environ.get(ADDRESS_VARIABLE) or _ADDRESS}/{place}"
    digest = hashlib.sha256()
    with files.stream(path) as file:
        for content in _downloaded(name, place, address):
            digest.update(content)
            file.write(content)
        _check(path, digest.hexdigest(), address)
    return path


def _downloaded(name: str, place: Path, address: str) -> Iterator[bytes]:
    """The content of an address in parts; raises UserError where it does not come, or not whole."""
    got = 0
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            parts = iter(lambda: answer.read(_PART), b"")
            for content in track(parts, place.name, -(-length // _PART) or None):
                got += len(content)
                yield content
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise _absent(name, place, f"{address}: {reason}") from error
    if length and got != length:
        raise _absent(name, place, f"{address}: ended after {got} of {length} bytes")


def _from_hub(name: str, place: Path) -> Path:
    """Fetch a file of the Hugging Face Hub into that library's own cache."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise _absent(name, place, "fetching it needs pip install 'cnn_jax[hub]'")
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    if not os.isatty(2):
        disable_progress_bars()
    try:
        return Path(huggingface_hub.hf_hub_download(name.removeprefix(HUB), _HUB_FILE))
    except Exception as error:  # its errors, those of its HTTP library and of the file system
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _absent(name, place, reason) from error


def _absent(name: str, place: Path, reason: str) -> UserError:
    return UserError(
        f"{name}: not fetched ({reason}); put the file into a folder as {place}, and name the "
        "folder with --weights-dir"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, digest: str, source: str | None = None) -> None:
    """Raise UserError unless a file is the one that its name, or that of its blob, says.

    The names of torchvision's files end in the first eight digits of their SHA-256. The Hub's cache
    names a file by all of them.
    """
    published = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    digits = published[1] if published else path.resolve().name
    stated = published is not None or re.fullmatch(r"[0-9a-f]{64}", digits)
    if stated and not digest.startswith(digits):
        raise UserError(
            f"{source or path}: is not the published file; its SHA-256 begins with {digest[:8]}, "
            f"not {digits[:8]}"
        )


def described(name: str, found: Found) -> str:
    """A line for the user: the file, its SHA-256 and licence."""
    return f"{name}: {found.path} (SHA-256 {found.sha256}, licence {found.licence})"


Notify = Callable[[str], None]


def located(text: str, model: str, folder: str | None, notify: Notify) -> Path:
    """The file of weights that a user names, by a path or by the name of published weights.

    Args:
        text: what the user gives.
        model: the architecture that they are for.
        folder: looked at first.
        notify: called with a line about the file, where it has a name, and with another where its
            normalisation is not known.

    Raises:
        UserError: they are another architecture's, or as `fetch` says.
    """
    if not is_name(text):
        return Path(text)
    row = known(text)
    if row is not None and row.model != model:
        raise UserError(f"{text}: weights of {row.model}, not of {model}; give --model {row.model}")
    found = fetch(text, folder)
    notify(described(text, found))
    if row is None:
        notify(f"{text}: not among the known weights; see that it takes images as {model} here")
    return found.path
