"""Finding the files that a data set names, though another tool or machine wrote the names."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from cnn_jax.errors import UserError
from cnn_jax.reading import LONGEST_PATH, existing_below

# What Label Studio puts before the name of an uploaded file.
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")


class ImageFinder:
    """Finds images by the names that a file gives them, written on another machine perhaps.

    A path of which only the last parts exist is found by those, and a name to which Label Studio
    added eight digits or percent signs by the name without them.
    """

    def __init__(self, *folders: Path):
        """Look below these folders, the first first."""
        self._folders = folders
        self._names: dict[Path, str] = {}
        self._found: dict[str, list[tuple[str, Path]]] = {}
        self._guessed: set[Path] = set()

    def find(self, name: str, place: str) -> str:
        """Return the path of an image; one in the first folder if there is none.

        Args:
            name: the name or path as written.
            place: where it is written, for messages.

        Raises:
            UserError: another name was already found as the same file, or the name is longer than
                a path can be.
        """
        if len(name) > LONGEST_PATH:
            raise UserError(f"{place}: the name of an image has {len(name):,} characters")
        path, how = self._locate(name)
        if how is not None:
            self._found.setdefault(how, []).append((name, path))
            self._guessed.add(path)
        other = self._names.setdefault(path, name)
        if other != name and path in self._guessed:
            raise UserError(
                f"{place}: {name}: no such image, and {path} is that of {other} already"
            )
        return os.fspath(path)

    def _locate(self, name: str) -> tuple[Path, str | None]:
        for folder in self._folders:
            if os.path.exists(folder / name):
                return folder / name, None
        start = max(name.rfind("/"), name.rfind("\\")) + 1
        ways = [("the last parts of their paths", name)]
        ways += [
            ("their names without what Label Studio adds", name[:start] + form)
            for form in plain_forms(name[start:])
        ]
        for how, form in ways:
            for folder in self._folders:
                if (path := existing_below(form, folder)) is not None:
                    return path, how
        return self._folders[0] / name, None

    def notices(self) -> list[str]:
        """Tell by what else than their paths images were found."""
        return [
            f"{len(found):,} {'image' if len(found) == 1 else 'images'} found by {how} "
            f"(the first: {found[0][0]} as {found[0][1]})"
            for how, found in self._found.items()
        ]


class NameIndex:
    """Names of files without their endings, also as they were before Label Studio changed them."""

    def __init__(self, names: Iterable[str]):
        """Take the names that exist."""
        self._names = set(names)
        self._plain: dict[str, list[str]] = {}
        for name in sorted(self._names):
            for form in plain_forms(name):
                self._plain.setdefault(form, []).append(name)
        self._found: list[tuple[str, str]] = []

    def find(self, name: str) -> str | None:
        """Return the existing name that is meant, or None."""
        if name in self._names:
            return name
        changed = self._plain.get(name, ())
        found = next((form for form in plain_forms(name) if form in self._names), None)
        found = found or (changed[0] if len(changed) == 1 else None)
        if found is not None:
            self._found.append((name, found))
        return found

    def notices(self, what: str) -> list[str]:
        """Tell which files, each a `what`, have another name than was asked for."""
        if not self._found:
            return []
        (name, found), count = self._found[0], len(self._found)
        files = what if count == 1 else f"{what}s"
        return [f"{count:,} {files} found by Label Studio's names (the first: {name} as {found})"]


def plain_forms(name: str) -> list[str]:
    """The other names of a file before Label Studio put digits before it and percent signs in."""
    forms = (unquote(name), _UPLOADED.sub("", name), _UPLOADED.sub("", unquote(name)))
    return [form for form in dict.fromkeys(forms) if form != name]
