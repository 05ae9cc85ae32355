"""The rooms of the house: a module imports only from below, and from where it may."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up; a room may import from any floor below its own.
FLOORS = (
    ("conventions", "errors", "progress", "files", "memory", "processors", "ranges", "reading"),
    ("ops",),
    ("explanations", "losses", "metrics", "models", "data", "runs"),
    ("tasks", "training", "reports"),
    ("experiments",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Rooms of one floor that may import each other: (from, to).
NEIGHBOURS = {(low, "errors") for low in ("files", "memory", "progress", "ranges", "reading")}
NEIGHBOURS |= {("progress", "processors")}

# Imports from below that are forbidden all the same.
FORBIDDEN = {
    ("training", "models"),
    ("training", "ops"),
    ("data", "losses"),
    ("metrics", "losses"),
    ("reports", "losses"),
}


def imports(path):
    """The modules of this project that a file imports, by their absolute names."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from cnn_jax import models` names a room only in what is imported.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(module):
    """The room that a module belongs to; None for other projects' modules."""
    top, *rest = module.split(".")
    if top == "experiments":
        return "experiments"
    return rest[0] if top == "cnn_jax" and rest and rest[0] in FLOOR else None


def crossings():
    """Every import from one room into another: (from, to, file)."""
    for path in [*ROOT.glob("cnn_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module in imports(path):
            other = room(module)
            if own is not None and other not in (None, own):
                yield own, other, str(path.relative_to(ROOT))


def test_every_room_has_its_floor():
    rooms = {p.stem for p in (ROOT / "cnn_jax").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == set(FLOOR) - {"experiments"}


def test_no_import_runs_up_a_floor_or_into_a_forbidden_room():
    wrong = [
        f"{file}: {own} -> {other}"
        for own, other, file in crossings()
        if (own, other) in FORBIDDEN
        or FLOOR[other] > FLOOR[own]
        or (FLOOR[other] == FLOOR[own] and (own, other) not in NEIGHBOURS)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from cnn_jax import models", "models"),
        ("from cnn_jax.models.resnet import ResNet", "models"),
        ("import cnn_jax.models.resnet", "models"),
        ("from ..models import resnet", "models"),
        ("from .. import models", "models"),
        ("from experiments import trainer", "experiments"),
    ],
)
def test_the_check_sees_every_form_of_import(code, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "cnn_jax" / "training" / "step.py"
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert {room(module) for module in imports(path)} == {expected}


def test_the_library_knows_no_pmap_but_in_parallel():
    users = [
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("cnn_jax/**/*.py"), *ROOT.glob("experiments/*.py")]
        if "jax.pmap(" in path.read_text()
    ]
    assert users == ["cnn_jax/training/parallel.py"]


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [
        path.parent.relative_to(ROOT)
        for top in ("cnn_jax", "experiments")
        for path in ROOT.glob(f"{top}/**/__init__.py")
    ]
    names = {".".join(folder.parts) for folder in folders}
    installed = {
        name.replace("cnn_jax_experiments", "experiments") for name in settings["packages"]
    }
    assert installed == names


def test_every_file_of_data_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in ROOT.glob(
            f"{package.replace('cnn_jax_experiments', 'experiments').replace('.', '/')}/{pattern}"
        )
    }
    found = {
        path
        for top in ("cnn_jax", "experiments")
        for path in ROOT.glob(f"{top}/**/*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert named == found


def test_the_package_works_under_the_name_that_it_is_installed_by(tmp_path):
    """Installed, the folder has another name, and there is no module `experiments`."""
    (tmp_path / "cnn_jax").symlink_to(ROOT / "cnn_jax")
    (tmp_path / "cnn_jax_experiments").symlink_to(ROOT / "experiments")
    code = (
        "import sys; sys.modules['experiments'] = None; "
        "from cnn_jax_experiments.__main__ import console; "
        "sys.argv = ['cnn-jax', 'classify', '--help']; console()"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "--learning-rate" in ended.stdout
