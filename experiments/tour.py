"""The whole way of a run on one page: read this file first.

python -m experiments.tour

It trains a small ResNet on the built-in pictures of shapes for ten steps and evaluates it. An entry
point such as `experiments.classify` does the same with flags, checkpoints and a report.
"""

import optax

from cnn_jax import data, models
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.source import Subset
from cnn_jax.data.transforms import EvaluationTransform, TrainingTransform
from cnn_jax.tasks.classification import Classification
from cnn_jax.training import parallel, prng
from cnn_jax.training.evaluation import evaluate
from cnn_jax.training.state import create

SIZE, BATCH, STEPS, SEED = 32, 16, 10, 0


def main() -> dict[str, float]:
    """Train ten steps, evaluate, and return the metrics of the evaluation."""
    # 1. Data. `source[i]` is a pure function of i: an image and its label, as NumPy arrays.
    training = data.open_source("shapes", "train", seed=SEED, image_size=SIZE)
    held_out = data.open_source("shapes", "eval", seed=SEED, image_size=SIZE)
    held_out = Subset(held_out, range(400))

    # 2. A model is a flax module: `apply(variables, images, train=False)` gives (logits, features).
    model = models.create("resnet20", num_classes=len(training.class_names), width=0.5)

    # 3. A task says how a batch becomes a loss, predictions and metrics. It knows no device.
    spec = models.input_spec("resnet20")
    task = Classification(
        model,
        num_classes=len(training.class_names),
        image_size=SIZE,
        mean=spec.mean,
        std=spec.std,
        augmentation=Augmentation(flip=True, output_size=SIZE),
    )

    # 4. The state: step, params, batch statistics, optimizer state. Arrays only, and no key: every
    # key is derived from the seed by name, step and device.
    key = prng.root(SEED)
    optimizer = optax.sgd(0.05, momentum=0.9)
    state = create(*task.init(prng.stream(key, "init")), optimizer)

    # 5. The step is the pure function `training.step.train_step`, pmapped over all devices here.
    # `jax.jit(partial(train_step, task=task, optimizer=optimizer))` is the same on one device.
    step = parallel.compile_train_step(task, optimizer)
    state = parallel.replicate(state)

    # 6. Batch k is a function of (seed, k): a run that resumes at step k reads the same examples.
    batches = TrainingBatches(training, TrainingTransform(SIZE), batch_size=BATCH, seed=SEED)
    placed = parallel.prefetch(batches.iterate(0))
    for _ in range(STEPS):
        _, batch = next(placed)
        state, sums = step(state, batch, key)
        print(f"step {int(state.step):2d}  loss {float(sums['loss']) / int(sums['examples']):.3f}")

    # 7. Evaluation sees every example once. Metrics are per-example functions whose sums are added
    # over batches and devices, and divided once at the end.
    evaluation = evaluate(
        task,
        parallel.compile_evaluation_step(task),
        state,
        EvaluationBatches(held_out, EvaluationTransform(SIZE, SIZE), batch_size=200),
    )
    print("  ".join(f"{name} {value:.3f}" for name, value in evaluation.metrics.items()))
    return evaluation.metrics


if __name__ == "__main__":
    main()
