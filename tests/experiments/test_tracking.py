"""`--track`: what a service is told of a run, with one that the tests made and with real ones."""

import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cnn_jax.errors import UnfinishedError, UserError
from cnn_jax.runs.log import RunLog
from experiments import classify, tracking
from experiments import options as flags

FAKE = '''
"""As much of wandb as a run uses; it writes down what it is told."""

import json
import os


def tell(*what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(what) + "\\n")


class Settings(dict):
    def __init__(self, **given):
        super().__init__(given)


def Image(path):
    return {"image": os.path.basename(path), "bytes": os.path.getsize(path)}


class Config:
    def update(self, values, allow_val_change=False):
        tell("config", values)


class Run:
    config, summary = Config(), {}
    dir = os.environ["TOLD"] + ".files"

    def define_metric(self, name, step_metric):
        tell("define", name, step_metric)

    def log(self, row):
        if os.environ.get("BREAKS") == "log":
            raise RuntimeError("the service\\nis down")
        tell("log", row)

    def save(self, path, base_path, policy):
        tell("save", os.path.relpath(path, base_path))

    def finish(self, exit_code):
        tell("finish", exit_code)


def init(**given):
    if os.environ.get("BREAKS") == "init":
        raise RuntimeError("no key")
    tell("init", given)
    os.makedirs(Run.dir, exist_ok=True)
    return Run()
'''


@pytest.fixture
def service(tmp_path, monkeypatch):
    """The tests' own wandb; reads what it was told since the last call."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    for name in ("wandb", "experiments.tracking.wandb_run"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    read = 0

    def told():
        nonlocal read
        lines = (tmp_path / "told").read_text().splitlines()
        read, begin = len(lines), read
        return [json.loads(line) for line in lines[begin:]]

    yield told
    for name in ("wandb", "experiments.tracking.wandb_run"):
        sys.modules.pop(name, None)


def write(out, kind, *, steps=(1, 2), resumed=None, error=None):
    """What a run writes that is asked for a service; it may end with an error."""
    tracker = tracking.followed(flags.RunOptions(track=kind), out, enabled=True)
    console = Console(file=io.StringIO())
    log = RunLog(out, total_steps=2, resumed_step=resumed, tracker=tracker, console=console)
    try:
        with log, tracker:
            write_rows(out, log, steps, error)
    finally:
        tracker._background.join()  # a run that Ctrl-C ends does not wait for the thread


def write_rows(out, log, steps, error):
    log.write_config({"model": "resnet20", "steps": max(steps), "mean": (0.5, 0.25)})
    for step in steps:
        log.report(step, "train", {"loss": 1 / step, "top1": math.nan})
    if error is not None:
        raise error
    (out / "samples").mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(out / "samples/worst.png")
    log.report(step, "eval", {"top1": np.float32(0.75)})
    log.write_result(step, "eval", {"top1": np.float32(0.75)})


def rows(told):
    return [what[1] for what in told if what[0] == "log"]


def test_a_service_is_told_config_rows_result_pictures_and_files(service, tmp_path):
    out = tmp_path / "run"
    write(out, "wandb")
    told = service()
    kinds = [what[0] for what in told]
    assert kinds == ["init", "define", "config", *["log"] * 5, "save", "save", "finish"]
    assert told[0][1]["dir"] == str(out) and told[0][1]["name"] == "run"
    assert told[0][1]["project"] == "cnn_jax" and told[0][1]["resume"] == "allow"
    assert told[2][1] == {"model": "resnet20", "steps": 2, "mean": [0.5, 0.25]}
    *numbers, drawn = rows(told)
    assert [row["step"] for row in numbers] == [1, 2, 2, 2]
    assert numbers[0]["train/loss"] == 1 and math.isnan(numbers[0]["train/top1"])
    assert numbers[1]["train/loss"] == 0.5
    assert numbers[2]["eval/top1"] == numbers[3]["result/top1"] == 0.75
    assert drawn["samples/worst"]["bytes"] == (out / "samples/worst.png").stat().st_size
    assert [what[1] for what in told if what[0] == "save"] == ["config.json", "result.json"]
    assert told[-1] == ["finish", 0]


def test_a_resumed_run_goes_on_as_the_same_run_and_another_one_does_not(service, tmp_path):
    write(tmp_path / "run", "wandb", steps=(1,))
    first = service()
    assert json.loads((tmp_path / "run/tracking.json").read_text()) == {"wandb": first[0][1]["id"]}
    write(tmp_path / "run", "wandb", steps=(2,), resumed=1)
    assert service()[0][1]["id"] == first[0][1]["id"]
    write(tmp_path / "other", "wandb")
    assert service()[0][1]["id"] != first[0][1]["id"]


@pytest.mark.parametrize(
    ("error", "code"), [(UnfinishedError(), 75), (KeyboardInterrupt(), 75), (UserError("disk"), 1)]
)
def test_a_service_is_told_how_a_run_ends(service, tmp_path, error, code):
    with pytest.raises(type(error)):
        write(tmp_path / "run", "wandb", error=error)
    assert service()[-1] == ["finish", code]


@pytest.mark.parametrize(("breaks", "reason"), [("init", "no key"), ("log", "the service is down")])
def test_what_fails_there_is_told_once_and_the_run_goes_on(
    service, tmp_path, monkeypatch, capsys, breaks, reason
):
    monkeypatch.setenv("BREAKS", breaks)
    write(tmp_path / "run", "wandb")
    errors = capsys.readouterr().err
    assert errors == f"warning: --track wandb: {reason}; the run goes on without it\n"
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "run/result.json").exists()


def test_only_the_first_process_tells(service, tmp_path):
    assert tracking.followed(flags.RunOptions(track="wandb"), tmp_path, enabled=False) is None
    assert tracking.followed(flags.RunOptions(), tmp_path, enabled=True) is None


def test_a_folder_that_is_refused_leaves_its_run_there_as_it_is(service, tmp_path):
    write(tmp_path / "run", "wandb")
    service()
    with pytest.raises(UserError, match="already holds a run"):
        write(tmp_path / "run", "wandb")
    assert service() == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_package_that_is_missing_is_one_line(tmp_path, monkeypatch, folder):
    """A folder `mlflow` here, which the service itself would make, is not the package."""
    if folder:
        (tmp_path / "mlflow").mkdir()
    path = [str(tmp_path), *(p for p in sys.path if "site-packages" not in p)]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(UserError, match=r"--track mlflow: needs pip install 'cnn_jax\[mlflow\]'"):
        classify.main(["--track", "mlflow", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_nothing_is_imported_without_the_flag(tmp_path):
    code = (
        "import sys; from experiments import __main__, classify, trainer, tracking; "
        "from experiments import options as flags; "
        "parsed = flags.parse(classify.Options, []); tracking.check_package(parsed.run); "
        "assert tracking.followed(parsed.run, '.', True) is None; "
        "assert not {'wandb', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for split, number in (("train", 4), ("val", 2)):
        for label, shade in (("dark", 30), ("light", 220)):
            (root / split / label).mkdir(parents=True)
            for i in range(number):
                image = Image.new("RGB", (16, 16), (shade + i, shade, shade))
                image.save(root / split / label / f"{i}.png")
    return root


def test_a_command_is_followed_and_goes_on_as_the_same_run(service, photos, tmp_path):
    out = tmp_path / "run"
    small = ["--width", "0.25", "--image-size", "16", "--batch-size", "4", "--report-every", "1"]
    start = ["--data", f"folder:{photos}", "--steps", "2", "--eval-every", "2", *small]
    classify.main(["--out", str(out), "--track", "wandb", *start])
    first = service()
    config = json.loads((out / "config.json").read_text())
    assert first[2] == ["config", config] and config["track"] == "wandb"
    written = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row in written:
        split, step = row.pop("split"), row["step"]
        del row["seconds"]
        named = {key if key == "step" else f"{split}/{key}": row[key] for key in row}
        assert named in rows(first), (split, step)
    assert {what[1] for what in first if what[0] == "save"} == set(tracking.DESCRIBING)
    classify.main(["--out", str(out), "--resume", "--steps", "3"])
    second = service()
    assert second[0][1]["id"] == first[0][1]["id"]
    assert [row["step"] for row in rows(second) if "train/loss" in row] == [3]
    assert second[-1] == ["finish", 0]


@pytest.mark.filterwarnings("ignore")  # those of MLflow's own libraries
def test_mlflow_itself_keeps_a_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    with pytest.raises(UnfinishedError):
        write(out, "mlflow", steps=(1,), error=UnfinishedError())
    client = mlflow.MlflowClient()
    name = json.loads((out / "tracking.json").read_text())["mlflow"]
    assert client.get_run(name).info.status == "KILLED"
    write(out, "mlflow", steps=(2,), resumed=1)
    kept = client.get_run(name)
    assert kept.info.status == "FINISHED" and kept.info.run_name == "run"
    assert kept.data.params == {"model": "resnet20", "steps": "1", "mean": "[0.5, 0.25]"}
    assert kept.data.metrics["result/top1"] == 0.75
    losses = [(m.step, m.value) for m in client.get_metric_history(name, "train/loss")]
    assert losses == [(1, 1.0), (2, 0.5)]
    assert math.isnan(kept.data.metrics["train/top1"])
    assert kept.data.tags["folder"] == str(out)
    names = {file.path for file in client.list_artifacts(name)}
    assert {"config.json", "result.json", "samples"} <= names
    assert [file.path for file in client.list_artifacts(name, "samples")] == ["samples/worst.png"]
    (experiment,) = client.search_experiments(filter_string="name = 'cnn_jax'")
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.filterwarnings("ignore")
def test_mlflow_that_is_not_there_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write(tmp_path / "run", "mlflow")
    assert capsys.readouterr().err.count("warning: --track mlflow: ") == 1
    assert (tmp_path / "run/result.json").exists()


def test_wandb_itself_keeps_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    out = tmp_path / "run"
    code = (
        "from tests.experiments.test_tracking import write; from pathlib import Path; "
        f"out = Path({str(out)!r}); write(out, 'wandb', steps=(1,)); "
        "write(out, 'wandb', steps=(2,), resumed=1)"
    )
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": os.getcwd()}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0 and "warning: --track" not in ended.stderr, ended.stderr
    name = json.loads((out / "tracking.json").read_text())["wandb"]
    parts = sorted((out / "wandb").glob(f"offline-run-*-{name}"))
    assert len(parts) == 2  # `wandb sync` makes one run of them
    for part, step in zip(parts, (1, 2), strict=True):
        config, history = offline(part / f"run-{name}.wandb")
        assert config["model"] == "resnet20" and config["steps"] == step
        assert {row["step"] for row in history} == {step}  # the picture has it too
        assert [row["train/loss"] for row in history if "train/loss" in row] == [1 / step]
        assert [row["result/top1"] for row in history if "result/top1" in row] == [0.75]
        assert list((part / "files/media/images").rglob("worst*.png"))
        kept = part / "files/result.json"
        assert json.loads(kept.read_text())["step"] == step and not kept.is_symlink()


def offline(path):
    """The config and the rows in a file of W&B, which is a log of LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    def items(update):
        return {i.key or i.nested_key[0]: json.loads(i.value_json) for i in update}

    data, at, part, config, history = path.read_bytes(), 7, b"", {}, []
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, part = Record.FromString(part), b""
            config |= items([*record.config.update, *record.run.config.update])
            if record.HasField("history"):
                history.append(items(record.history.item))
    return config, history
