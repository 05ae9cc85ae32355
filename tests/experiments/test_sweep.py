"""Sweeps: their settings and names, what is refused, kills, the table, and the Slurm array."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial

import pytest

from cnn_jax.errors import UnfinishedError, UserError
from cnn_jax.runs.claim import claimed, is_claimed
from cnn_jax.training import stopping
from experiments import classify, compare, options, sweep
from experiments.sweep import jobs, settings, slurm, table
from experiments.sweep.plan import plan
from tests.checks import assert_same_bits
from tests.commands import leaves, rows
from tests.faults import kills

KNOWN = options.declared(classify.Options)
GRID = ["learning_rate=.1,.03", "width=0.5,0.25"]


def planned(tmp_path, *grid, fixed=(), seeds=(0,), **settings):
    return plan("classify", tmp_path, list(fixed), list(grid), seeds, **settings)


def test_a_grid_is_every_combination_and_seed(tmp_path):
    found = planned(tmp_path, "lr=.1,3e-2", "model=resnet20,vgg11", seeds=(0, 7))
    assert [dict(setting) for setting in found.settings] == [
        {"learning_rate": 0.1, "model": "resnet20"},
        {"learning_rate": 0.1, "model": "vgg11"},
        {"learning_rate": 0.03, "model": "resnet20"},
        {"learning_rate": 0.03, "model": "vgg11"},
    ]
    names = [run.name for run in found.runs]
    assert len(set(names)) == 8
    assert names[:3] == [
        "learning_rate=0.1,model=resnet20,seed=0",
        "learning_rate=0.1,model=resnet20,seed=7",
        "learning_rate=0.1,model=vgg11,seed=0",
    ]
    assert found.runs[1].arguments == ["--learning-rate=0.1", "--model=resnet20", "--seed=7"]


@pytest.mark.parametrize(
    ("item", "values", "typed"),
    [
        ("flip=true,false", (True, False), ["--flip"]),
        ("milestones=.3 .6,.5", ((0.3, 0.6), (0.5,)), ["--milestones", "0.3", "0.6"]),
        ("clip-norm=None,1", (None, 1.0), ["--clip-norm=None"]),
        ("data=csv:a,b;voc:c", ("csv:a,b", "voc:c"), ["--data=csv:a,b"]),
        ("data=csv:a,b;", ("csv:a,b",), ["--data=csv:a,b"]),
        ("holdout_groups=log:1:2", ("log:1:2",), ["--holdout-groups=log:1:2"]),
    ],
)
def test_values_are_read_and_typed_as_their_flag_has_them(item, values, typed):
    ((name, found),) = settings.read([item], KNOWN).items()
    assert found == values
    assert settings.arguments({name: values[0]}, KNOWN) == typed
    for value in values:  # what is typed is read as the same value
        given = options.typed(classify.Options, settings.arguments({name: value}, KNOWN))
        assert given == {name: value}


def test_names_of_folders_are_safe_and_differ():
    values = ["folder:/data/a b", "folder:/data/a/b", "../..", "x" * 400, "x" * 401, "ü"]
    names = [settings.run_name({"data": value}, 0) for value in values]
    assert len({name.casefold() for name in names}) == len(values)
    for name in names:
        assert len(name) <= 200 and name.isascii()
        assert not set(name) & set("/\\ '\"$;&|*?")
    assert settings.run_name({"milestones": (0.5, 0.75), "flip": True}, 3) == (
        "milestones=0.5+0.75,flip=True,seed=3"
    )


def test_draws_lie_in_their_ranges_and_more_of_them_begin_with_the_same(tmp_path):
    grid = ["lr=log:.001:1", "label_smoothing=uniform:0:.2", "warmup=log:1:100", "width=.5,1"]
    values = settings.read(grid, KNOWN)
    many = settings.drawn(values, 200, seed=0)
    assert many[:20] == settings.drawn(values, 20, seed=0)
    assert many[:20] != settings.drawn(values, 20, seed=1)
    rates = [setting["learning_rate"] for setting in many]
    assert min(rates) >= 0.001 and max(rates) <= 1
    # Of a logarithm that is uniform, half lies below the middle of the exponents.
    assert 70 < sum(rate < 0.0316 for rate in rates) < 130
    assert all(rate == float(f"{rate:.4g}") for rate in rates)
    smoothing = [setting["label_smoothing"] for setting in many]
    assert 70 < sum(value < 0.1 for value in smoothing) < 130
    assert {type(setting["warmup"]) for setting in many} == {int}
    assert {setting["width"] for setting in many} == {0.5, 1.0}
    # A flag's draws do not depend on the other flags.
    alone = settings.drawn({"learning_rate": values["learning_rate"]}, 20, seed=0)
    assert [setting["learning_rate"] for setting in alone] == rates[:20]
    found = planned(tmp_path, *grid, draws=3, seeds=(0, 1))
    assert len(found.runs) == 6 and [*found.settings] == many[:3]


def test_what_is_wrong_is_told_before_anything_starts(tmp_path, capsys):
    cases = {
        "": "give the command that trains",
        "classify": "--out: name the folder",
        "clasify --out {out}": "clasify: must be one of classify",
        "classify --out {out} --grid lr": "--grid lr: must be NAME=VALUE",
        "classify --out {out} --grid lrr=1": "--grid lrr=1: no such flag, did you mean",
        "classify --out {out} --grid lr=a": "--learning-rate a: must be a number in [0, 1e6]",
        "classify --out {out} --grid lr=.1,0.1": "0.1 is given twice",
        "classify --out {out} --grid lr=.1 learning_rate=.2": "learning_rate is given twice",
        "classify --out {out} --grid seed=1,2": "--seed: not a flag of a sweep's runs; the sweep's",
        "classify --out {out} --seeds 1 1": "--seeds: 1 is given twice",
        "classify --out {out} --seeds": "--seeds: give one or more",
        "classify --out {out} --grid lr=log:.1:1": "a range needs --random N",
        "classify --out {out} --grid lr=log:0:1 --random 2": "must have 0 < LOW < HIGH",
        "classify --out {out} --grid lr=.1,.2 --random 3": "these values have only 2 settings",
        "classify --out {out} --random 3": "--random: give what to draw",
        "classify --out {out} --search-seed 3": "--search-seed: only used with --random",
        "classify --out {out} --metric top2": "--metric top2: no metric that orders runs",
        "classify --out {out} -- --resume": "--resume: not a flag of a sweep's runs",
        "classify --out {out} -- --predictions a.csv": "every run would write the same file",
        "classify --out {out} -- --lrx 1": "--lrx: no such flag",
        "classify --out {out} --grid lr=.1 -- --lr 1": "--learning-rate: given here and in --grid",
        "classify --out {out} --grid model=resnet20,vgg": "model=vgg,seed=0: --model vgg: no such",
        "classify --out {out} --grid crop=pad,random -- --padding 2": (
            "crop=random,seed=0: --padding: only used with --crop pad, not with --crop random"
        ),
        "detect --out {out} --grid system=yolo,rcnn -- --boxes free": (
            "system=rcnn,seed=0: --boxes: only used with --system yolo"
        ),
    }
    for line, message in cases.items():
        with pytest.raises(SystemExit) as ended:
            options.entry(partial(sweep.main, line.format(out=tmp_path / "out").split()))
        assert ended.value.code == 2, line
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, line
    assert not (tmp_path / "out").exists()


TOY = textwrap.dedent(
    """
    # A run that writes what a run writes, a step at a time, and goes on where it was killed.
    import json, os, sys, time
    given = dict(item[2:].split("=", 1) for item in sys.argv[1:] if "=" in item)
    out, seed, rate = given["out"], int(given["seed"]), float(given["learning-rate"])
    if seed == 9 and not os.path.exists(out + ".mended"):
        print("error: --seed: nine is no seed")
        sys.exit(2)
    os.makedirs(out, exist_ok=True)
    resumed = os.path.exists(out + "/config.json")
    assert resumed == ("--resume" in sys.argv), "is resumed where it was started, and only there"
    with open(os.path.dirname(__file__) + "/defaults.json") as file:
        config = json.load(file)
    config |= {"learning_rate": rate, "width": float(given["width"]), "seed": seed}
    config["flip"] = "--flip" in sys.argv
    with open(out + "/config.json.part", "w") as file:
        json.dump(config, file)
    os.rename(out + "/config.json.part", out + "/config.json")
    path = out + "/metrics.jsonl"
    rows = [json.loads(line) for line in open(path)] if os.path.exists(path) else []
    for step in range(len(rows) + 1, 5):
        time.sleep(0.03)
        row = {"step": step, "split": "eval", "top1": rate * step / 4 + seed / 100, "seconds": step}
        rows.append(row)
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\\n")
    with open(out + "/result.json.part", "w") as file:
        json.dump(rows[-1], file)
    os.rename(out + "/result.json.part", out + "/result.json")
    """
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Let the runs of a sweep be a small program, which needs no JAX."""
    program = tmp_path / "toy.py"
    program.write_text(TOY)
    defaults = {"verb": "classify", **options.flat(classify.Options())}
    (tmp_path / "defaults.json").write_text(json.dumps(defaults))

    def command(verb, run):
        line = jobs_command(verb, run)
        return [sys.executable, "-S", str(program), *line[3:]]

    jobs_command = jobs.command
    monkeypatch.setattr(jobs, "command", command)
    monkeypatch.setattr(jobs, "_PERIOD", 0.02)


def started_sweep(out, *more, seeds="0 1 2"):
    line = ["classify", "--seeds", *seeds.split(), "--grid", *GRID, "--out", str(out), *more]
    sweep.main(line)


def stopped_after(out, runs, seconds):
    """Send this process SIGTERM some time after so many further runs have started or ended.

    The event that is returned calls it off.
    """

    def files():
        return len([*out.glob("logs/*")])

    enough = files() + max(2 * runs, 1)

    def stop():
        while files() < enough:
            if over.wait(0.02):
                return
        if not over.wait(seconds):
            os.kill(os.getpid(), signal.SIGTERM)

    over = threading.Event()
    threading.Thread(target=stop, daemon=True).start()
    return over


def comparison(out):
    return json.loads((out / "comparison.json").read_text())


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_stopped_sweep_ends_as_one_that_was_not(toy, tmp_path, jobs):
    started_sweep(tmp_path / "whole")
    rng, stops = random.Random(jobs), 0
    with stopping.noted(signal.SIGTERM):  # one that comes as the sweep ends, which no longer hears
        for _ in range(100):
            # SIGTERM to the sweep: it asks its runs to end, which die of it, and ends itself.
            over = stopped_after(tmp_path / "stopped", rng.randrange(3), rng.uniform(0, 0.2))
            try:
                started_sweep(tmp_path / "stopped", "--jobs", jobs)
                break
            except UnfinishedError as error:
                assert "runs have finished; the same command goes on" in str(error)
                stops += 1
            finally:
                over.set()
    assert stops > 1
    assert comparison(tmp_path / "stopped") == comparison(tmp_path / "whole")
    found = comparison(tmp_path / "whole")
    assert [row["setting"]["learning_rate"] for row in found["settings"]] == [0.1, 0.1, 0.03, 0.03]
    best = found["settings"][0]
    assert best["metrics"]["top1"] == {"mean": pytest.approx(0.11), "spread": pytest.approx(0.01)}
    assert [one["top1"] for one in best["seeds"].values()] == pytest.approx([0.1, 0.11, 0.12])
    for run in (tmp_path / "whole").glob("*seed=*"):
        assert rows(tmp_path / "stopped" / run.name) == rows(run)


def test_failed_runs_are_named_and_tried_again(toy, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        started_sweep(out, seeds="0 9")
    assert ended.value.code == sweep.FAILED
    told = capsys.readouterr()
    assert "4 of 8 runs failed:" in told.err
    name = "learning_rate=0.1,width=0.5,seed=9"
    assert f"{name}: failed with status 2 (error: --seed: nine is no seed)" in told.err
    assert len(comparison(out)["failed"]) == 4
    assert list(comparison(out)["settings"][0]["seeds"]) == ["0"]
    assert "failed" in told.out and name in (out / "comparison.html").read_text()
    for run in planned(out, *GRID, seeds=(9,)).runs:
        (out / f"{run.name}.mended").touch()
    started_sweep(out, seeds="0 9")
    told = capsys.readouterr().err
    assert "8 runs, 4 of them finished" in told
    assert f"{name}: started" in told and "seed=0: " not in told
    assert comparison(out)["failed"] == []


def test_a_folder_has_one_sweep_at_a_time_and_of_one_command(toy, tmp_path, capsys):
    out = tmp_path / "out"
    with claimed(out / "logs"), pytest.raises(UserError, match="another process is writing"):
        started_sweep(out)
    started_sweep(out, "--", "--workers", "0", "--flip")
    with pytest.raises(UserError, match=r"sweep\.json: is of a sweep with another verb or other"):
        started_sweep(out)
    with pytest.raises(UserError, match=r"width=0.5,seed=0: --flip: the run in .* has True"):
        started_sweep(out, "--", "--no-flip")
    capsys.readouterr()
    started_sweep(out, "--", "--workers", "1", "--flip")  # which does not make it another run
    assert "12 runs, 12 of them finished" in capsys.readouterr().err


def test_a_run_that_another_process_writes_is_waited_for(toy, tmp_path, capsys):
    run = planned(tmp_path / "out", *GRID).runs[3]
    assert not is_claimed(run.folder)
    with claimed(run.folder):
        assert is_claimed(run.folder)
        stopped_after(tmp_path / "out", 3, 0.5)
        with pytest.raises(UnfinishedError, match="3 of 4 runs have finished"):
            started_sweep(tmp_path / "out", seeds="0")
    assert f"{run.name}: another process writes in its folder" in capsys.readouterr().err
    started_sweep(tmp_path / "out", seeds="0")


def test_the_runs_end_with_a_sweep_that_is_killed(tmp_path):
    """The process between lets Linux send SIGTERM to the run when its parent dies."""
    heard = tmp_path / "heard"
    child = (
        f"import signal, pathlib, time; p = pathlib.Path({str(heard)!r}); "
        "signal.signal(signal.SIGTERM, lambda *_: (p.write_text('ended'), exit())); "
        "p.touch(); time.sleep(60)"
    )
    code = (
        "import os, subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-S', '-c', {jobs._GUARDED!r}, str(os.getpid()), "
        f"sys.executable, '-S', '-c', {child!r}], start_new_session=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-S", "-c", code])
    deadline = time.monotonic() + 60
    while not heard.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while not heard.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert heard.read_text() == "ended"


def test_each_place_has_a_device_of_its_own(monkeypatch):
    assert jobs.places(None) == [{}] and jobs.places(3) == [{}] * 3  # the CPU is shared
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    gpus = [{"CUDA_VISIBLE_DEVICES": name} for name in "01"]
    monkeypatch.setattr(jobs, "_accelerators", lambda: gpus)
    assert jobs.places(None) == gpus
    assert jobs.places(1) == [{}]
    shared = jobs.places(3)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in shared] == ["0", "1", "0"]
    assert [place.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for place in shared] == [
        "0.45",
        None,
        "0.45",
    ]
    monkeypatch.setattr(jobs, "_accelerators", lambda: [{"TPU_VISIBLE_CHIPS": "0"}])
    with pytest.raises(UserError, match="--jobs 2: there are 1 TPU chips"):
        jobs.places(2)


def test_the_table_orders_by_any_metric_and_leaves_out_what_is_not_finite(toy, tmp_path):
    out = tmp_path / "out"
    started_sweep(out, seeds="0 1")
    found = plan("classify", out, [], GRID, (0, 1))
    for run, loss in zip(found.runs, [3.0, 3.0, None, 1.0, 1.0, 2.0, 0.5, 0.7], strict=True):
        with (run.folder / "metrics.jsonl").open("a") as file:
            row = {"step": 4, "split": "eval", "top1": 0.5, "loss": loss, "seconds": 9}
            file.write(json.dumps(row) + "\n")
    best = table.compared(found, {}, "loss")
    order = [(row.setting["learning_rate"], row.setting["width"]) for row in best.rows]
    assert order == [(0.03, 0.25), (0.03, 0.5), (0.1, 0.5), (0.1, 0.25)]
    header, cells = table.table(best)
    expected = ["learning_rate", "width", "loss", "seed 0", "seed 1", "top-1", "time of a run"]
    assert header == expected
    assert cells[0] == ["0.03", "0.25", "0.6 ± 0.14", "0.5", "0.7", "50.00 ± 0.00 %", "9 s"]
    assert cells[3][2:5] == ["–", "–", "1"]  # noqa: RUF001 (en dashes are meant)
    assert table.summary(best)["settings"][3]["metrics"]["loss"]["mean"] is None
    with pytest.raises(UserError, match="--metric bleu: the runs have top1, loss"):
        table.compared(found, {}, "bleu")


# The Slurm array


def run_task(script, tmp_path, number, status=0):
    """Run one task of the array with a `srun` that notes its arguments and ends with a status."""
    for name, body in (
        ("srun", f'printf "%s\\n" "$@" > calls; exit {status}'),
        ("scontrol", 'echo "scontrol $*" >> calls'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_ARRAY_TASK_ID": str(number),
    }
    ended = subprocess.run(
        ["bash", script],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "4", **variables},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (status, "")
    return (tmp_path / "calls").read_text().splitlines()


def test_the_array_has_a_task_for_each_run_that_has_not_finished(tmp_path, capsys):
    out = tmp_path / "o ut"
    line = ["classify", "--seeds", "0", "1", "--grid", "lr=.1,.2", "--out", str(out), "--slurm"]
    sweep.main([*line, "--jobs", "2", "--sbatch", "partition=big", "time=01:00:00", "--", "--flip"])
    script = out / "array.sh"
    assert f"4 of 4 runs; hand them in: sbatch {script}" in capsys.readouterr().out
    header = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    for expected in ("array=0-3%2", "partition=big", "time=01:00:00", "nodes=1", "requeue"):
        assert f"#SBATCH --{expected}" in header
    assert header.count("#SBATCH --signal=USR1@180") == 1
    subprocess.run(["bash", "-n", script], check=True)
    found = planned(out, "lr=.1,.2", fixed=["--flip"], seeds=(0, 1))
    for number, run in enumerate(found.runs):
        calls = run_task(script, tmp_path, number)
        given = calls[calls.index("--distributed") + 1 :]
        assert given == ["--out", str(run.folder), *run.arguments]
        assert calls[calls.index("-m") + 1] == "experiments.classify"
    assert run.status_file.read_text() == "0\n" and not run.finished
    calls = run_task(script, tmp_path, 1, status=75)
    assert calls[-1] == "scontrol requeue 7"
    for run in (found.runs[0], found.runs[1]):
        run.folder.mkdir()
        (run.folder / "config.json").write_text("{}")
        (run.folder / "result.json").write_text("{}")
    assert "--resume" in run_task(script, tmp_path, 1, status=2)
    # The first has finished now, with the status that the array wrote.
    assert [run.finished for run in found.runs] == [True, False, False, False]
    assert slurm.script(found, found.runs[1:], None, {}).count("arguments=(") == 3


def test_an_array_is_handed_in_where_sbatch_is(tmp_path, monkeypatch, capsys):
    line = ["classify", "--out", str(tmp_path / "out"), "--slurm", "--submit"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--submit: no sbatch here"):
        sweep.main(line)
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 5 of $1\n")
    (tmp_path / "sbatch").chmod(0o755)
    sweep.main(line)
    assert f"Submitted batch job 5 of {tmp_path}/out/array.sh" in capsys.readouterr().out
    with pytest.raises(UserError, match="--sbatch big: must be NAME=VALUE"):
        sweep.main([*line, "--sbatch", "big"])


# Real runs

SMALL = [
    *("--image-size", "16", "--batch-size", "8", "--eval-batch-size", "8", "--steps", "6"),
    *("--eval-every", "6", "--checkpoint-every", "2", "--report-every", "3"),
    *("--model", "airbench94", "--width", "0.1", "--whiten", "10"),
]


def command(out):
    seeds, data = ["--seeds", "0", "1"], ["--data", f"folder:{out.parent}/data/classes"]
    line = ["classify", *seeds, "--grid", GRID[0], "--out", str(out), "--jobs", "2"]
    line += ["--", *SMALL, *data]
    return [sys.executable, "-m", "experiments.sweep", *line]


@pytest.mark.slow
def test_a_sweep_that_is_killed_ends_as_one_that_is_not(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kills.write_data(tmp_path / "data")
    began = time.monotonic()
    subprocess.run(command(whole), check=True, capture_output=True, text=True)
    took = time.monotonic() - began
    rng, count = random.Random(0), 0
    while count < 4:
        process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=-3)
        try:
            process.wait(rng.uniform(3, took / 3))
            assert process.returncode == 0
            shutil.rmtree(killed)  # it was faster than the kills
        except subprocess.TimeoutExpired:
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            process.wait()
            count += 1
    subprocess.run(command(killed), check=True, capture_output=True, text=True)
    assert (killed / "comparison.json").read_text() == (whole / "comparison.json").read_text()
    for run in whole.glob("*seed=*"):
        assert rows(killed / run.name) == rows(run)
        assert_same_bits(leaves(killed / run.name), leaves(run))
    assert len(compare.grouped([compare.read_run(run) for run in whole.glob("*seed=*")])) == 2
