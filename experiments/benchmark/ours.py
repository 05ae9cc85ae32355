"""This project as a contender."""

import itertools
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import memory, models, processors
from cnn_jax.data import open_source
from cnn_jax.data.augment import Augmentation, augment_example, normalize
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.packed import PackedSource, prepared
from cnn_jax.data.transforms import TrainingTransform
from cnn_jax.metrics.detection.coco import evaluate_coco
from cnn_jax.models import summary
from cnn_jax.models.seq2seq import Seq2Seq
from cnn_jax.ops.boxes import iou
from cnn_jax.ops.nms import nms
from cnn_jax.ops.roi_align import roi_align
from cnn_jax.ops.roi_pooling import roi_pool
from cnn_jax.runs.environment import describe_environment
from cnn_jax.tasks.classification import Classification
from cnn_jax.tasks.translation import Translation
from cnn_jax.training import parallel, prng
from cnn_jax.training.backend import compile_single_call, keep_freed_memory
from cnn_jax.training.state import TrainState, create
from cnn_jax.training.step import Task

from .. import needs
from ..similarity.search import Search
from . import detected, operations, scenes, scenes_in_jax, searched, sentences
from .contest import Job, Prepared


def prepare(job: Job, transform: parallel.Transform = "pmap") -> Prepared:
    """Build what the job needs, up to its first step."""
    # The first step's time is that of a first start.
    jax.config.update("jax_enable_compilation_cache", False)
    keep_freed_memory()
    match job.work:
        case "data":
            return _data(job)
        case "readers":
            return _readers(job)
        case "ops":
            return _operation(job)
        case "translate":
            return _translator(job, transform)
        case "coco":
            return _evaluation(job)
        case "search":
            return _search(job)
        case _:
            return _network(job, transform)


def _network(job: Job, transform: parallel.Transform) -> Prepared:
    """Training or inference on one batch that lies on the devices, as a run does it."""
    if job.model in scenes.SIZES:
        task, inputs = scenes_in_jax.task(job), scenes_in_jax.inputs(job)
        rows = scenes_in_jax.batch(job, getattr(task.model, "margin", 0))
    else:
        spec = models.input_spec(job.model)
        model = models.create(job.model, job.num_classes, dtype=jnp.dtype(job.dtype))
        task = Classification(model, job.num_classes, job.image_size, spec.mean, spec.std)
        inputs, rows = (task.network_input,), _batch(job)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.01, momentum=0.9))
    parallel.check_batch_size(job.batch_size)
    state = _state(job, task, optimizer, *inputs)
    _, batch = next(parallel.prefetch([rows]))
    facts = partial(_facts, job, task.model, *inputs)
    if job.work == "train":
        train = _training(task, optimizer, state, batch, transform)
        return Prepared(train, facts, _peak_memory)
    evaluate = parallel.compile_evaluation_step(task, transform=transform)

    def run(steps: int) -> None:
        for _ in range(steps):
            sums = evaluate(state, batch)
        jax.block_until_ready(sums)

    return Prepared(run, facts, _peak_memory)


def _training(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    transform: parallel.Transform,
) -> Callable[[int], None]:
    """Steps on one batch that lies on the devices, as a run does them."""
    step = parallel.compile_train_step(task, optimizer, transform=transform)
    key = prng.root(0)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, sums = step(state, batch, key)
        jax.block_until_ready(sums)

    return run


def _translator(job: Job, transform: parallel.Transform) -> Prepared:
    """Training steps of the translator, teacher forcing, on one batch of sentences."""
    model = Seq2Seq(
        source_size=sentences.SOURCE_SIZE,
        target_size=sentences.TARGET_SIZE,
        embedding_size=sentences.EMBEDDING_SIZE,
        hidden_size=sentences.HIDDEN_SIZE,
        dropout_rate=sentences.DROPOUT_RATE,
        dtype=jnp.dtype(job.dtype),
    )
    task = Translation(model, sentences.LENGTH, label_smoothing=sentences.LABEL_SMOOTHING)
    optimizer = optax.chain(
        optax.clip_by_global_norm(sentences.CLIP_NORM), optax.adam(sentences.LEARNING_RATE)
    )
    parallel.check_batch_size(job.batch_size)
    sentence = jax.ShapeDtypeStruct((1, sentences.LENGTH), jnp.int32)
    state = _state(job, task, optimizer, sentence, sentence)
    source, target = sentences.inputs(job.batch_size)
    rows = {
        "source": source,
        "target": target,
        "valid": np.ones(job.batch_size, bool),
        "ordinal": np.arange(job.batch_size, dtype=np.int32),
    }
    _, batch = next(parallel.prefetch([rows]))
    return Prepared(
        _training(task, optimizer, state, batch, transform),
        partial(_facts, job, model, sentence, sentence),
        _peak_memory,
    )


def _state(
    job: Job, task: Task, optimizer: optax.GradientTransformation, *inputs: jax.ShapeDtypeStruct
) -> TrainState:
    """The first state, on the devices; refused where the job does not fit into memory."""

    def fresh() -> TrainState:
        return create(*task.init(jax.random.key(0)), optimizer)

    evaluated = job.batch_size if job.work == "inference" else 0
    trained = 0 if evaluated else job.batch_size
    shapes = jax.eval_shape(fresh)
    traced = summary.trace(task.model, *inputs, variables=shapes.variables)
    needs.check(traced, shapes, evaluated=evaluated, trained=trained)
    return parallel.replicate(compile_single_call(fresh)())


def _facts(job: Job, model: nn.Module, *inputs: jax.ShapeDtypeStruct) -> dict[str, Any]:
    counts = summary.summarize(summary.trace(model, *inputs))
    # A training step multiplies thrice: forward, and for the gradients of inputs and of weights.
    passes = 1 if job.work == "inference" else 3
    return {
        "parameters": counts.parameters,
        "flops_per_image": 2 * passes * counts.multiply_adds,
        "matmul_flops": _matmul_rate(jnp.dtype(job.dtype)),
        "environment": describe_environment(),
    }


def _batch(job: Job) -> dict[str, np.ndarray]:
    rng, size = np.random.default_rng(0), job.image_size
    return {
        "image": rng.integers(0, 256, (job.batch_size, size, size, 3), dtype=np.uint8),
        "label": rng.integers(0, job.num_classes, job.batch_size, dtype=np.int32),
        "valid": np.ones(job.batch_size, bool),
        "ordinal": np.arange(job.batch_size, dtype=np.int32),
        "index": np.arange(job.batch_size, dtype=np.int32),
        "size": np.full((job.batch_size, 2), size, np.float32),
    }


def _data(job: Job) -> Prepared:
    """Files read and decoded on the host; random resized crop and flip on the device."""
    canvas = round(job.image_size * 8 / 7)
    source = open_source(f"folder:{job.folder}", "train", draft_size=canvas)
    transform = TrainingTransform(canvas)
    batches = TrainingBatches(
        source, transform, batch_size=job.batch_size, seed=0, workers=job.workers
    )
    config = Augmentation(crop="resized", flip=True, output_size=job.image_size)
    spec = models.input_spec(job.model)

    @jax.jit
    def augment(batch: dict[str, Any]) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(prng.root(0), batch["ordinal"].ravel())
        images = batch["image"].reshape(-1, canvas, canvas, 3).astype(jnp.float32) / 255
        sizes = batch["size"].reshape(-1, 2)
        images = jax.vmap(partial(augment_example, config=config))(keys, images, sizes)
        return normalize(images, spec.mean, spec.std)

    stream = parallel.prefetch(batches.iterate())

    def run(steps: int) -> None:
        for _, batch in itertools.islice(stream, steps):
            images = augment(batch)
        jax.block_until_ready(images)

    return Prepared(run, lambda: {"cores": processors.available()}, _peak_memory)


def _readers(job: Job) -> Prepared:
    """Batches of training canvases, decoded or mapped, and nothing done with them."""
    kind = "packed" if job.packed else "folder"
    canvas = round(job.image_size * 8 / 7)
    source = open_source(f"{kind}:{job.folder}", "train", draft_size=canvas)
    transform = TrainingTransform(canvas)
    if isinstance(source, PackedSource):
        made = source.made
        transform = TrainingTransform(made["canvas_size"], keep_aspect=made["keep_aspect"])
    batches = TrainingBatches(
        source,
        prepared(source, transform),
        batch_size=job.batch_size,
        seed=0,
        workers=job.workers,
    )
    stream = batches.iterate()

    def run(steps: int) -> None:
        for batch in itertools.islice(stream, steps):
            facts["bytes"] = sum(column.nbytes for column in batch.values()) // job.batch_size

    facts: dict[str, Any] = {
        "cores": processors.available(),
        "canvas": transform.canvas_size,
        "images": len(source),
    }
    return Prepared(run, lambda: facts, _peak_memory)


def _operation(job: Job) -> Prepared:
    """An operation of detection on one image's boxes, compiled."""
    # Every box is held against every other.
    size = 4 * job.batch_size**2
    memory.require(size, f"the overlaps of {job.batch_size} boxes", "a smaller --batch-size")
    given = operations.inputs(job.batch_size)
    boxes, scores, features = map(jnp.asarray, (given.boxes, given.scores, given.features))
    pool = partial(roi_pool, size=operations.BINS, spatial_scale=1 / operations.STRIDE)
    align = partial(
        roi_align,
        size=operations.BINS,
        spatial_scale=1 / operations.STRIDE,
        sampling_ratio=operations.SAMPLES,
    )

    def gradient(operation: Any) -> Any:
        return jax.grad(lambda features: jnp.sum(operation(features, boxes)))

    kept = partial(nms, threshold=operations.THRESHOLD, max_kept=job.batch_size)
    calls = {
        "box_iou": (iou, (boxes, boxes)),
        "nms": (kept, (boxes, scores)),
        "roi_pool": (pool, (features, boxes)),
        "roi_pool_gradient": (gradient(pool), (features,)),
        "roi_align": (align, (features, boxes)),
        "roi_align_gradient": (gradient(align), (features,)),
    }
    function, arguments = calls[job.model]
    compiled = jax.jit(function)

    def run(steps: int) -> None:
        for _ in range(steps):
            result = compiled(*arguments)
        jax.block_until_ready(result)

    return Prepared(run, dict, _peak_memory)


def _evaluation(job: Job) -> Prepared:
    """COCO's evaluation, from detections and objects in rows to the twelve numbers."""
    # A detection takes about 200 bytes while it is drawn, sorted and matched.
    rows = job.batch_size * detected.DETECTIONS
    memory.require(200 * rows, f"evaluating {rows} detections", "a smaller --batch-size")
    detections, objects = detected.inputs(job.batch_size)

    def run(steps: int) -> None:
        for _ in range(steps):
            evaluate_coco(detections, objects, detected.CLASSES).summary()

    return Prepared(run, dict, _peak_memory)


def _search(job: Job) -> Prepared:
    """The nearest of many vectors, which lie on the device, for a step's queries."""
    search = Search(searched.vectors(searched.ROWS, seed=0))
    queries = searched.vectors(job.batch_size, seed=1)

    def run(steps: int) -> None:
        for _ in range(steps):
            search.nearest(queries, searched.NEIGHBORS)

    return Prepared(run, lambda: {"rows": searched.ROWS}, _peak_memory)


def _matmul_rate(dtype: jnp.dtype) -> float:
    """FLOP/s of a large matrix product: what the arithmetic of a network is held against."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        jax.block_until_ready(product(a))
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds)


def _peak_memory() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
