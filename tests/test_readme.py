"""README's example runs and prints what it says; its commands, files and flags exist."""

import ast
import re
from pathlib import Path

import pytest

from experiments import options as flags
from experiments import pack
from experiments.__main__ import VERBS
from tests.verbs import OPTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_prints_what_it_says(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    expected = ast.literal_eval(example.strip().splitlines()[-1].partition("  # ")[2])
    exec(compile(example, "README.md", "exec"), {})
    printed = ast.literal_eval(capsys.readouterr().out)
    assert printed.keys() == expected.keys()
    for key, value in expected.items():
        assert printed[key] == pytest.approx(value, abs=0.005)


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_every_command_and_every_flag_exists():
    known = {
        spelling
        for options in (
            *OPTIONS.values(),
            *map(pack.options_of, ("classify", "annotate", "detect", "segment")),
        )
        for flag in flags.declared(options).values()
        for name in (flag.name, *flag.declared.aliases.split())
        for spelling in (f"--{name.replace('_', '-')}", f"--no-{name.replace('_', '-')}")
    }
    for verb in re.findall(r"experiments\.(\w+)(?= )", README):
        assert verb in VERBS, verb
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    code = "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", README)])
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
        assert flag in known | {"--help"}, flag
