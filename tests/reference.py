"""Build the reference of the library from its docstrings: a page for each module, with a search.

python -m tests.reference DIR

It needs the extra `docs`. A warning ends it, and so does a docstring that names something of this
project that does not exist.
"""

import pkgutil
import re
import sys
import typing
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import pdoc
from flax import linen as nn

ROOTS = ("cnn_jax", "experiments.predict")
"""The packages that people import."""

FLAX_FIELDS = {"parent", "name", "scope"}
"""The fields that flax adds to every module of a network."""


def main(folder: Path) -> None:
    """Write the pages into a folder.

    Raises:
        SystemExit: docstrings name what does not exist; each is listed.
    """
    # Read by jaxtyping, which then writes `Float[Array, "height width"]`.
    typing.GENERATING_DOCUMENTATION = "cnn_jax"
    warnings.simplefilter("error")
    # A field of a network that holds a function of jax, whose annotations cannot be resolved.
    warnings.filterwarnings("ignore", r"Error parsing type annotation .* for \S+_init\.")
    for name in ROOTS:
        _name_modules(name)
    members = list(_members(map(pdoc.doc.Module.from_name, ROOTS)))
    if missing := sorted(set(_missing(members))):
        raise SystemExit("\n".join(missing))
    for member in members:
        _trim(member)
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*ROOTS, output_directory=folder)


def _name_modules(name: str) -> None:
    """Add a package's modules to its `__all__`, if it has one: pdoc leaves out all others."""
    package = pkgutil.resolve_name(name)
    for info in pkgutil.iter_modules(package.__path__):
        if info.ispkg:
            _name_modules(f"{name}.{info.name}")
        if hasattr(package, "__all__"):
            package.__all__.append(info.name)


def _members(parents: Iterable[pdoc.doc.Doc]) -> Iterator[pdoc.doc.Doc]:
    """List modules, classes and all that they hold."""
    for parent in parents:
        yield parent
        if isinstance(parent, pdoc.doc.Namespace):
            yield from _members(parent.own_members)
        if isinstance(parent, pdoc.doc.Module):
            yield from _members(parent.submodules)


def _missing(members: Iterable[pdoc.doc.Doc]) -> Iterator[str]:
    """Find the names in backticks that begin with this project's and lead nowhere."""
    for member in members:
        for name in re.findall(r"`((?:cnn_jax|experiments)(?:\.\w+)+)`", member.docstring):
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                yield f"{member.fullname}: there is no `{name}`"


def _trim(member: pdoc.doc.Doc) -> None:
    """Leave out what flax and NamedTuple add to classes, and make blocks of commands."""
    member.docstring = re.sub("(?m)^(?=python -m )", " " * 4, member.docstring)
    if re.match("Alias for field number|Create new instance of", member.docstring):
        member.docstring = ""
    if isinstance(member, pdoc.doc.Class) and issubclass(member.obj, nn.Module):
        member.own_members[:] = [m for m in member.own_members if m.name not in FLAX_FIELDS]
        made = member.members["__init__"]
        kept = [p for p in made.signature.parameters.values() if p.name not in FLAX_FIELDS]
        made.signature = made.signature.replace(parameters=kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
