"""The environment of a run: versions, devices, command line and commit."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

import cnn_jax
from cnn_jax import processors

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe_environment() -> dict[str, Any]:
    """Describe this process: versions, devices, command line, XLA flags and commit."""
    devices = jax.devices()
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "python": platform.python_version(),
        "packages": {"cnn_jax": cnn_jax.__version__, **{n: _version(n) for n in PACKAGES}},
        "platform": platform.platform(),
        "cpu_count": processors.available(),
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "host_count": jax.process_count(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name == "XLA_FLAGS" or name.startswith("JAX_")
        },
        **_git(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """Return the commit and whether files differ from it; empty outside of git."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.strip(), "uncommitted_changes": bool(status.strip())}
