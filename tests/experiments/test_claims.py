"""Claims: their files, the rule of the verdict, runs that are not repeated, and README's table."""

import json
import math
import re
import shlex
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.ops import pooling
from experiments import claims, classify
from experiments import options as flags
from experiments.claims import claim as files
from experiments.claims import pages, rows, running, timing, verdict
from experiments.sweep.plan import command
from tests.commands import rows as reports

ROOT = Path(__file__).parents[2]
NAMES = files.names()

SMALL = """
claim: Higher rates are better.
source: a paper, table 1
paper: Two points.
data: built in
verb: classify
flags: >-
  --data folder:{data}/photos --model resnet20 --image-size 16 --batch-size 8 --eval-batch-size 8
  --steps 4 --eval-every 2 --width 0.25
minutes: 1
seeds: [0, 1]
settings:
  low: --learning-rate 0.01
  high: --learning-rate 0.1
measures:
  test: {metric: top1}
  training: {metric: loss, evaluate: --split train}
  fit: {metric: top1, evaluate: --split train}
  steps: {metric: top1, reach: 0.9}
  seconds: {metric: seconds_per_image, evaluate: --eval-batch-size 8}
comparisons:
  - sentence: higher is better
    measure: test
    effect: {high: 1, low: -1}
    smallest: 0.02
  - sentence: higher is slower
    measure: seconds
    effect: {high: 1, low: -1}
    ratio: true
    smallest: 2
plot:
  measure: test
  x: rate
  y: top-1
  lines:
    networks: {0.01: low, 0.1: high}
"""


def small(folder, text=SMALL):
    (folder / "small.yaml").write_text(text)
    return files.load("small", folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 4)):
        for name, level in (("dark", 40), ("light", 200)):
            (root / "photos" / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = (level + rng.integers(-30, 30, (16, 16, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / "photos" / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_a_claim_is_legal_and_ends_in_other_rows(name, monkeypatch, tmp_path):
    monkeypatch.setenv(files.DATA, str(tmp_path))
    claim = files.load(name)
    assert claim.seeds == (0, 1, 2, 3, 4) and claim.minutes <= 20
    planned = running.planned_runs(claim, tmp_path / "out", claim.seeds)
    assert len(planned.runs) == len(claim.variants) * 5
    options = command(claim.verb).options
    for variant, measure in claim.measured:
        again = flags.typed(options, claim.placed(measure.evaluate or ()))
        known = flags.declared(options)
        if not measure.timed:
            assert all(known[flag].declared.resumable for flag in again), (measure, again)
        if measure.evaluate and not measure.timed:
            # Legal beside the run's own flags.
            typed = claim.placed([*claim.flags, *variant.typed, *measure.evaluate])
            chosen = command(claim.verb)
            flags.parse(chosen.options, [*typed, "--eval-only"], chosen.presets, chosen.variant)
    keys = [claim.key(v, seed, m) for v, m in claim.measured for seed in claim.seeds]
    assert len(set(keys)) == len(keys)


def test_there_is_a_claim_for_each_row_of_the_readme():
    text = (ROOT / "README.md").read_text()
    table = text.split("<!-- claims -->\n")[1].split("<!-- end of claims -->")[0]
    found = [files.load(name) for name in NAMES]
    computed = pages.markdown(
        [(each, verdict.verdicts(each, rows.committed(each))) for each in found]
    )
    assert table.strip() == computed.strip(), "python -m experiments.claims --table"


def test_the_bytes_that_decoders_keep_are_those_of_their_claim():
    note = files.load("unpooling").note
    shape = jax.ShapeDtypeStruct((1, 180, 240, 3), np.float32)
    network = models.create("vgg11_bn", 11, "segmenter", width=0.25)
    (_, features), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), shape)
    maps = [features[f"stage{stage}"] for stage in range(1, 5)]
    pooled = [
        jax.eval_shape(
            lambda x: pooling.max_pool_with_indices(x, (2, 2), (2, 2), ceil_mode=True), x
        )
        for x in maps
    ]
    kept = sum(x.size * x.dtype.itemsize for x in maps)
    indices = sum(x.size * x.dtype.itemsize for _, x in pooled)
    bits = 2 * sum(x.size for _, x in pooled)
    for size in (kept, indices, bits / 8):
        assert f"{size / 1000:,.0f} kB" in note


def outcome(effects, expected="above", smallest=1.0, ratio=False):
    comparison = files.Comparison("s", {("a", "m"): 1.0}, smallest, expected, ratio)
    return verdict.Verdict(comparison, tuple(effects))


@pytest.mark.parametrize(
    ("effects", "expected", "word"),
    [
        ((), "above", "not yet run"),
        ((1.0,), "above", "not yet run"),
        ((1.0, 1.1, 0.9, 1.05, 0.95), "above", "held"),
        ((-1.0, -1.1, -0.9, -1.05, -0.95), "above", "reversed"),
        ((0.1, -0.1, 0.2, -0.2, 0.0), "above", "no difference at this scale"),
        ((9.0, -9.0, 5.0, -5.0, 0.0), "above", "undecided"),
        ((-0.1, 0.1, -0.2, 0.2, 0.0), "not_below", "held"),
        ((-5.0, -5.1, -4.9, -5.05, -4.95), "not_below", "reversed"),
        ((9.0, -9.0, 5.0, -5.0, 0.0), "not_below", "undecided"),
    ],
)
def test_the_verdict_is_that_of_the_rule(effects, expected, word):
    assert outcome(effects, expected).word == word


def test_the_interval_is_scipys_paired_one():
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    found = outcome(tuple(map(float, first - second)))
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(interval.low)
    assert found.mean + found.half_width == pytest.approx(interval.high)
    none = outcome((0.1, -0.1, 0.2, -0.2, 0.0))
    assert (
        f"an effect above {none.half_width:.3g} would have been seen, the paper's is 1" in none.line
    )


def test_a_ratio_is_compared_by_its_logarithm():
    effects = [math.log(x) for x in (9.0, 11.0, 10.0)]
    found = outcome(effects, ratio=True, smallest=2.0)
    assert found.word == "held" and found.smallest == pytest.approx(math.log(2))
    assert found.figure.startswith("9.97 times")


def row(claim, label, seed, measure, value):
    (variant,) = [v for v in claim.variants if v.label == label]
    key = claim.key(variant, seed, claim.measures[measure])
    return rows.Row(key, label, seed, measure, value, 1.0, "cpu")


def test_a_tuned_setting_is_the_one_with_the_best_mean_of_all_seeds(tmp_path):
    text = SMALL.replace("measures:", "tune: {momentum: [0.8, 0.9], by: test}\nmeasures:")
    claim = small(tmp_path, text)
    labels = [variant.label for variant in claim.variants]
    assert labels == [f"{s},momentum={r}" for s in ("low", "high") for r in (0.8, 0.9)]
    values = dict(zip(labels, (0.1, 0.3, 0.8, 0.5), strict=True))
    known = [row(claim, k, seed, "test", v) for k, v in values.items() for seed in (0, 1)]
    found = {each.key: each for each in known}
    assert verdict.chosen(claim, "low", found).label == "low,momentum=0.9"
    (better, _) = verdict.verdicts(claim, found)
    assert better.effects == pytest.approx((0.5, 0.5))
    # Before all of its runs are there, none is chosen.
    del found[known[0].key]
    assert verdict.chosen(claim, "low", found) is None
    assert verdict.chosen(claim, "low,momentum=0.8", found).tuned == {"momentum": 0.8}


def test_seeds_that_do_not_choose_are_run_with_the_chosen_values_alone(tmp_path, monkeypatch, data):
    monkeypatch.setenv(files.DATA, str(data))
    monkeypatch.setattr(rows, "COMMITTED", tmp_path / "results")
    tune = "tune: {momentum: [0.5, 0.9], by: training, seeds: [1]}\nmeasures:"
    claim, started = small(tmp_path, SMALL.replace("measures:", tune)), []
    in_this_process(monkeypatch, started)
    assert claims.examine(claim, tmp_path / "out", None, record=True) == []
    runs = [name for name in started if name.startswith("setting=")]
    best = {s: verdict.chosen(claim, s, rows.committed(claim)).tuned for s in ("low", "high")}
    chosen = [f"setting={s},momentum={t['momentum']},seed=0" for s, t in best.items()]
    assert runs[4:] == chosen and all(run.endswith("seed=1") for run in runs[:4])
    assert all(len(each.effects) == 2 for each in verdict.verdicts(claim, rows.committed(claim)))
    assert "failed" not in (tmp_path / "out" / "small" / "comparison.html").read_text()
    done = len(started)
    claims.examine(claim, tmp_path / "out", None, record=False)
    assert len(started) == done


def test_a_key_is_of_what_decides_a_value(tmp_path, monkeypatch):
    claim = small(tmp_path)
    (low, high), measure = claim.variants, claim.measures["test"]
    key = claim.key(low, 0, measure)
    assert key != claim.key(high, 0, measure) != claim.key(high, 1, measure)
    assert key != claim.key(low, 0, claim.measures["training"])
    monkeypatch.setenv(files.DATA, str(tmp_path))
    same = small(tmp_path, SMALL.replace("--steps 4", "--report-every 7 --steps 4 --keep 2"))
    assert same.key(same.variants[0], 0, same.measures["test"]) == key
    other = small(tmp_path, SMALL.replace("--steps 4", "--steps 5"))
    assert other.key(other.variants[0], 0, other.measures["test"]) != key


def in_this_process(monkeypatch, started):
    """Runs and evaluations as functions, which share what is compiled."""

    def finish(planned, at_a_time):
        for run in planned.runs:
            if not run.finished:
                started.append(run.name)
                classify.main([*run.arguments, "--out", str(run.folder)])
                run.status_file.write_text("0\n")
        return {}

    def printed(run, module, place):
        told = StringIO()
        with redirect_stdout(told):
            (timing if module[0].endswith("timing") else classify).main(list(module[1:]))
        started.append(shlex.join(module[-2:]))
        return told.getvalue()

    monkeypatch.setattr(running.sweep, "finish", finish)
    monkeypatch.setattr(running, "_printed", printed)


def test_runs_are_measured_kept_and_not_repeated(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(files.DATA, str(data))
    monkeypatch.setattr(rows, "COMMITTED", tmp_path / "results")
    claim, started = small(tmp_path, SMALL.replace("[0, 1]", "[1]")), []
    in_this_process(monkeypatch, started)
    out = tmp_path / "out"
    claims.examine(claim, out, None, record=False)
    assert "higher is better: not yet run (1 of at least 2 seeds)" in capsys.readouterr().out
    # Measures of one evaluation share it.
    assert len(started) == 2 + 2 + 2 and started[0] == "setting=low,seed=1"
    found = rows.read(out / "small" / running.ROWS)
    assert len(found) == 5 * 2
    folder = out / "small" / "setting=high,seed=1"
    trained = [r for r in reports(folder) if r["split"] == "eval"][-1]
    assert found[claim.key(claim.variants[1], 1, claim.measures["test"])].value == trained["top1"]
    (seen,) = [r for r in reports(folder) if r["split"] == "training_set"]
    training = found[claim.key(claim.variants[1], 1, claim.measures["training"])]
    assert training.value == seen["loss"]
    assert found[claim.key(claim.variants[1], 1, claim.measures["fit"])].value == seen["top1"]
    assert training.device == json.loads((folder / "environment.json").read_text())["device_kind"]
    times = [r.value for r in found.values() if r.measure == "seconds"]
    assert len(times) == 2 and min(times) > 0
    assert {(out / "small" / name).exists() for name in (pages.PLOT, pages.PAGE)} == {True}
    assert (out / "small" / "comparison.html").exists()

    # Again: nothing is run, nor where the rows are committed, not even with the data gone.
    claims.examine(claim, out, None, record=True)
    monkeypatch.delenv(files.DATA)
    claims.examine(claim, tmp_path / "elsewhere", None, record=False)
    assert len(started) == 6
    assert rows.read(rows.COMMITTED / "small.csv") == found
    # Times of a seed belong together: where one lacks, all of that seed are measured anew.
    monkeypatch.setenv(files.DATA, str(data))
    (rows.COMMITTED / "small.csv").unlink()
    lost = claim.key(claim.variants[0], 1, claim.measures["seconds"])
    rows.write(out / "small" / running.ROWS, (r for k, r in found.items() if k != lost))
    claims.examine(claim, out, None, record=False)
    assert len(started) == 6 + 2
    assert rows.read(out / "small" / running.ROWS).keys() == found.keys()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("verb: classify", "verb: sing", "verb sing: must be one of"),
        ("seeds: [0, 1]", "seeds: [0, x]", "seeds"),
        ("minutes: 1", "minuets: 1", "lacks 'minutes'"),
        ("minutes: 1", "minutes: 1\nextra: 2", "'extra' is not known"),
        ("{high: 1, low: -1}\n    smallest", "{wild: 1}\n    smallest", "wild: no setting of"),
        ("metric: top1, reach", "metrik: top1, reach", "lacks 'metric'"),
        ("smallest: 2", "smallest: 0", "smallest 0.0: must be a number"),
        ("measures:", "tune: {momentum: [0.1, 0.2]}\nmeasures:", "tune: must have flags and"),
        (
            "measures:",
            "tune: {momentum: [0.1], by: test, seeds: [7]}\nmeasures:",
            "tune: 'seeds' must be some of the claim's seeds",
        ),
    ],
)
def test_mistakes_in_a_file_are_told_with_its_name(old, new, message, tmp_path):
    assert old in SMALL
    with pytest.raises(UserError, match=r"small\.yaml: .*" + re.escape(message)):
        small(tmp_path, SMALL.replace(old, new, 1))


def test_other_mistakes_are_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv(files.DATA, raising=False)
    monkeypatch.setattr(rows, "COMMITTED", tmp_path / "results")
    with pytest.raises(UserError, match="no such claim, did you mean dropout"):
        claims.main(["dropot", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="--out: name the folder"):
        claims.main(["dropout"])
    with pytest.raises(
        UserError, match=r"CNN_JAX_DATA: must name the folder of the data of dropout"
    ):
        running.carry_out(files.load("dropout"), tmp_path, None)
    assert not list(tmp_path.iterdir())
    path = tmp_path / "rows.csv"
    for text, message in [
        ("a,b\n", "rows.csv:1: expected the columns key,setting"),
        (",".join(rows.Row._fields) + "\nk,s,0,m,much,1,cpu\n", "rows.csv:2: value"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            rows.read(path)


@pytest.mark.slow
def test_the_command_runs_a_claim_in_processes_of_their_own(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(files.DATA, str(data))
    monkeypatch.setattr(rows, "COMMITTED", tmp_path / "results")
    claim = small(tmp_path, SMALL.replace("[0, 1]", "[0]"))
    claims.examine(claim, tmp_path / "out", None, record=False)
    assert len(rows.read(tmp_path / "out" / "small" / running.ROWS)) == 10
    assert sys.executable and "not yet run (1 of at least 2 seeds)" in capsys.readouterr().out
