"""The benchmark's arithmetic, its contest of processes, and the networks that it compares."""

import importlib
import json
import os
import signal
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.conventions import PAD
from cnn_jax.errors import UserError, check
from cnn_jax.losses.yolo import yolo_loss
from cnn_jax.metrics.detection.coco import evaluate_coco
from cnn_jax.models.seq2seq import Seq2Seq
from cnn_jax.ops.boxes import iou
from cnn_jax.tasks.detection.regions import BoxStatistics, RegionSampling, draw, region_loss
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import detected, operations, scenes, scenes_in_jax, searched
from experiments.benchmark.contest import Job, Measurement, Prepared, contest, ratios

JOB = Job(work="train", model="resnet20", batch_size=2, image_size=8)


def prepare(job):
    """A contender that sleeps: this module stands in for a framework."""
    if job.model == "unknown":
        raise UserError("has no unknown")
    if job.model == "range":
        check(False, "width", 3, "in [0, 1]")
    if job.model == "dies":
        raise SystemExit(7)
    if job.model == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.model == "imports":
        importlib.import_module("nothing")
    if job.model == "allocates":
        raise MemoryError
    pause = 0.002 if job.work == "train" else 0.004
    facts = {"parameters": 1, "flops_per_image": 10, "matmul_flops": 1e4}
    return Prepared(lambda steps: time.sleep(pause * steps), lambda: facts, lambda: 10**9)


def measurement(*rates):
    return Measurement(rates, 1.5, 2 * 10**9, {"flops_per_image": 10, "matmul_flops": 1e3})


def test_ratios_are_taken_round_by_round():
    assert ratios(measurement(2, 9), measurement(1, 3)) == [2, 3]
    assert measurement(1, 9, 2).rate == 2


def test_a_table_has_the_median_and_the_range_of_the_ratios():
    row = benchmark.row(JOB, measurement(20, 30, 40), measurement(20, 20, 20))
    text = benchmark.table([row["cells"]])
    assert "1.50 (1.00 to 2.00)" in text
    assert "30 %" in text  # 30 images of 10 FLOPs, of 1000 FLOP/s
    header, _, line = text.splitlines()
    assert header.count("|") == line.count("|")
    alone = benchmark.table([benchmark.row(JOB, measurement(20))["cells"]])
    assert "ratio" not in alone


def test_a_result_has_the_geometric_mean_over_networks_of_each_kind_of_work():
    def row(model, work, ratio):
        job = Job(work=work, model=model, batch_size=1, image_size=8)
        return benchmark.row(job, measurement(ratio), measurement(1))

    rows = [row("a", "train", 1), row("b", "train", 4), row("a", "inference", 3)]
    result = benchmark.result(rows)
    assert result["train_ratio"] == pytest.approx(2)
    assert result["inference_ratio"] == pytest.approx(3)
    json.dumps(result)


@pytest.mark.slow
def test_contenders_work_in_turn_in_processes_of_their_own(monkeypatch):
    fast, slow = contest(["tests.experiments.test_benchmark"] * 2, JOB, rounds=2, seconds=0.1)
    assert len(fast.rates) == len(slow.rates) == 2
    assert fast.peak_bytes == 10**9
    # Two images a step of 2 ms; a busy machine may be slower, but not faster.
    assert 0 < fast.rate <= 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("unknown", "has no unknown"),
        ("dies", r"ended early \(exit code 7\); see above"),
        ("killed", r"ended early \(exit code -9\); out of memory\? try a smaller --batch-size"),
        ("imports", r"test_benchmark: cannot be imported \(No module named 'nothing'\)"),
        ("allocates", "allocates: out of memory; try a smaller --batch-size"),
        ("range", r"^width 3: must be in \[0, 1\]$"),
    ],
)
def test_a_contender_that_cannot_is_an_error_of_one_line(model, message):
    job = Job(work="train", model=model, batch_size=2, image_size=8)
    with pytest.raises(UserError, match=message):
        contest(["tests.experiments.test_benchmark"], job, rounds=1, seconds=0.1)


def test_reading_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="--work data: needs --data folder:DIR"):
        benchmark.main(["--work", "data", "--out", str(tmp_path)])


@pytest.mark.slow
def test_a_benchmark_of_this_project_alone_writes_its_results(tmp_path, capsys):
    options = ["--models", "resnet20", "--batch-size", "4", "--image-size", "16"]
    benchmark.main([*options, "--rounds", "1", "--seconds", "0.1", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["job"]["work"] for row in result["rows"]] == ["train", "inference"]
    assert all(row["ours"]["rates"][0] > 0 for row in result["rows"])
    assert result["rows"][0]["ours"]["facts"]["parameters"] == 269_722
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("name", ["resnet20", "densenet_bc_100_12", "googlenet", "inception_v3"])
def test_the_networks_in_torch_have_as_many_parameters(name):
    pytest.importorskip("torchvision")
    from experiments.benchmark import in_torch

    expected = {"resnet20": 269_722, "densenet_bc_100_12": 769_162}
    expected |= {"googlenet": 9_960_638, "inception_v3": 24_371_444}
    network = in_torch.network(name, 10)
    assert sum(p.numel() for p in network.parameters()) == expected[name]


@pytest.mark.parametrize("name", scenes.SIZES)
def test_segmenters_and_detectors_in_torch_have_as_many_parameters(name):
    torch = pytest.importorskip("torch")
    from experiments.benchmark import in_torch

    (job,) = benchmark.jobs(benchmark.Options(models=(name,), work=("train",)))
    task, inputs = scenes_in_jax.task(job), scenes_in_jax.inputs(job)
    shapes = jax.eval_shape(partial(task.model.init, jax.random.key(0)), *inputs)
    with torch.device("meta"):
        network = in_torch.network_of_scenes(job)
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert sum(p.numel() for p in network.parameters()) == counted
    with pytest.raises(UserError, match=f"--work inference: {name} is measured in training only"):
        benchmark.jobs(benchmark.Options(models=(name,)))


def test_scenes_have_an_object_a_cell_and_a_quarter_of_regions_on_objects():
    made = scenes.inputs(3, 100, margin=10)
    assert made.image.shape == (3, 100, 100, 3) and made.mask.shape == (3, 80, 80)
    for boxes, regions in zip(made.boxes, made.regions, strict=True):
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert len(np.unique(middle // (100 / scenes.GRID), axis=0)) == scenes.OBJECTS
        overlaps = np.asarray(iou(jnp.asarray(regions), jnp.asarray(boxes)))
        near = np.tile(np.arange(16) < 4, scenes.OBJECTS)
        own = overlaps[np.arange(64), np.repeat(np.arange(scenes.OBJECTS), 16)]
        assert (own[near] > 0.8).all() and (own[~near] < 0.45).all() and (own > 0.1).all()


def test_the_detectors_losses_in_torch_are_those_of_this_project():
    torch = pytest.importorskip("torchvision") and importlib.import_module("torch")
    from experiments.benchmark import detectors_in_torch

    rng, size = np.random.default_rng(0), 96
    made = scenes.inputs(3, size)
    boxes, labels, regions = map(torch.from_numpy, (made.boxes, made.labels, made.regions))
    outputs = rng.normal(0.3, 0.3, (3, 7, 7, 30)).astype(np.float32)
    outputs[0, ..., [2, 3, 7, 8]] = 0  # no box overlaps its object: the nearest is responsible
    valid = np.ones(scenes.OBJECTS, bool)
    expected = [
        sum(yolo_loss(*map(jnp.asarray, (o, b / size, c, valid)), num_boxes=2))
        for o, b, c in zip(outputs, made.boxes, made.labels, strict=True)
    ]
    found = detectors_in_torch.yolo_loss(torch.from_numpy(outputs), boxes / size, labels.long())
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)

    # The objects of one image are far enough from each other that no region stands for another's.
    rows, targets = draw(
        jax.random.key(0),
        *map(jnp.asarray, (made.regions[0], np.ones(scenes.REGIONS, bool))),
        *map(jnp.asarray, (made.boxes[0], made.labels[0], valid)),
        RegionSampling(background_iou=(0.0, 0.5)),
        BoxStatistics(),
    )
    scores = rng.normal(size=(scenes.REGIONS, 21)).astype(np.float32)
    deltas = rng.normal(size=(scenes.REGIONS, 20, 4)).astype(np.float32)
    losses = region_loss(jnp.asarray(scores)[rows], jnp.asarray(deltas)[rows], targets)
    assert sorted(rows.tolist()) == list(range(scenes.REGIONS)) and losses.foreground == 16
    found = detectors_in_torch.region_loss(
        *(torch.from_numpy(scores), torch.from_numpy(deltas)),
        *(regions[:1], boxes[:1], labels[:1].long()),
    )
    assert float(found) == pytest.approx(float(losses.classes + losses.boxes), rel=1e-5)


@pytest.mark.slow
def test_operations_are_timed(tmp_path, capsys):
    arguments = ["--work", "ops", "--models", "nms", "--batch-size", "50", "--rounds", "1"]
    benchmark.main([*arguments, "--seconds", "0.05", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row["job"]["model"] == "nms" and row["ours"]["rates"][0] > 0
    assert "nms 512 px" in capsys.readouterr().out


@pytest.mark.slow
def test_the_twin_of_pmap_is_measured_where_steps_run_on_all_devices():
    (job,) = benchmark.jobs(benchmark.Options(work=("train",), against="shard"))
    assert (job.work, job.compiled) == ("train", False)
    with pytest.raises(UserError, match="--against shard: --work must be train, inference, trans"):
        benchmark.jobs(benchmark.Options(work=("ops",), against="shard"))
    assert importlib.import_module(benchmark.OTHERS["shard"]).prepare.keywords == {
        "transform": "shard"
    }


def test_coco_s_evaluation_is_timed_against_pycocotools_which_says_the_same(tmp_path, capsys):
    from experiments.benchmark import in_pycocotools

    detections, objects = detected.inputs(20)
    ours = evaluate_coco(detections, objects, detected.CLASSES).summary()
    expected = in_pycocotools.evaluate(*in_pycocotools.annotated(20)).stats
    np.testing.assert_allclose(list(ours.values()), expected, atol=1e-6)
    assert expected[0] > 0.01
    for module in ("torch", "torch-compile"):
        with pytest.raises(UserError, match=f"--against {module}: --work coco has pycocotools"):
            benchmark.jobs(benchmark.Options(work=("coco",), against=module))
    with pytest.raises(UserError, match="--against pycocotools: --work train has torch or"):
        benchmark.jobs(benchmark.Options(against="pycocotools"))
    arguments = ["--work", "coco", "--batch-size", "20", "--against", "pycocotools"]
    benchmark.main([*arguments, "--rounds", "1", "--seconds", "0.05", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row["ours"]["rates"][0] > 0 and row["ratios"][0] > 0
    assert "| pycocotools |" in capsys.readouterr().out


def test_operations_and_networks_are_measured_apart(tmp_path):
    for work in ("ops", "translate", "coco", "search"):
        with pytest.raises(UserError, match=f"--work {work}: cannot be mixed"):
            benchmark.main(["--work", work, "train", "--out", str(tmp_path)])
    jobs = benchmark.jobs(benchmark.Options(work=("ops",)))
    assert [job.model for job in jobs] == list(operations.NAMES)


def test_the_search_is_timed_on_vectors_of_length_one(monkeypatch):
    from experiments.benchmark import ours

    monkeypatch.setattr(searched, "ROWS", 50)
    (job,) = benchmark.jobs(benchmark.Options(work=("search",), batch_size=2))
    ours.prepare(job).run(1)
    assert "512 numbers" in benchmark.row(job, measurement(20))["cells"][0]
    np.testing.assert_allclose(np.linalg.norm(searched.vectors(3, 0), axis=1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="--work search has no other side"):
        benchmark.jobs(benchmark.Options(work=("search",), against="torch"))


def test_both_contenders_compute_the_same_operations():
    pytest.importorskip("torchvision")
    from experiments.benchmark import in_torch, ours

    for name in operations.NAMES:
        job = Job(work="ops", model=name, batch_size=20, image_size=operations.IMAGE)
        ours.prepare(job).run(1)
        in_torch.prepare(job).run(1)


def test_the_translator_in_torch_is_the_same_function_of_its_weights():
    torch = pytest.importorskip("torch")
    from experiments.benchmark import seq2seq_in_torch

    sizes = {"source_size": 11, "target_size": 12, "embedding_size": 6, "hidden_size": 8}
    theirs = seq2seq_in_torch.Seq2Seq(**sizes, dropout_rate=0.5).eval()
    encode = {k: jnp.asarray(v.detach().numpy()) for k, v in theirs.encode.items()}
    for direction in ("forward", "backward"):
        encode[direction] = {n: encode.pop(f"{direction}_{n}") for n in ("kernel", "bias")}
    decode = {k: jnp.asarray(v.detach().numpy()) for k, v in theirs.decode.items()}
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, 11, (2, 3, 5))
    source[0, 3:] = PAD
    logits, _ = Seq2Seq(**sizes).apply(
        {"params": {"encode": encode, "decode": decode}}, jnp.asarray(source), jnp.asarray(target)
    )
    with torch.no_grad():
        expected = theirs(torch.from_numpy(source), torch.from_numpy(target)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
def test_training_the_translator_is_timed(tmp_path, capsys):
    arguments = ["--work", "translate", "--batch-size", "2", "--rounds", "1", "--seconds", "0.05"]
    benchmark.main([*arguments, "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row["job"]["model"] == "seq2seq" and row["ours"]["rates"][0] > 0
    assert "seq2seq 20 tokens" in capsys.readouterr().out
