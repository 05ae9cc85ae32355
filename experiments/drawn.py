"""The picture of a run's network: a file of the run, and what `--graph` writes without one."""

from pathlib import Path

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.models.graph import graph
from cnn_jax.models.summary import Trace, trace
from cnn_jax.reports.network import draw
from cnn_jax.runs.folder import CONFIG_FILE, NETWORK_FILE

from .run import Run


def write_network(run: Run, traced: Trace) -> None:
    """Draw the network into the run's folder, where its page finds it, unless it is there.

    A start that ended before `config.json` may have left that of another network.
    """
    path = run.out / NETWORK_FILE
    if not (path.exists() and (run.out / CONFIG_FILE).exists()):
        files.replace(path, picture(run, traced))


def write_graph(run: Run) -> None:
    """Write the file of `--graph`.

    Raises:
        UserError: the file has another ending, or cannot be written.
    """
    path = check_graph(run.options.run.graph)
    files.replace(path, picture(run, trace(run.model, *run.inputs)))
    print(f"{path}: {run.options.model.model}")


def check_graph(name: str) -> Path:
    """The file of `--graph`.

    Raises:
        UserError: it has another ending.
    """
    path = Path(name)
    if path.suffix.lower() != ".svg":
        raise UserError("must end in .svg", "graph", name)
    return path


def picture(run: Run, traced: Trace) -> str:
    """The network as SVG."""
    return draw(graph(traced), run.options.model.model)
