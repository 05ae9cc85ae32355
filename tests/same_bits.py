"""Check that two states of the code train and evaluate with the same bits, on built-in data.

python -m tests.same_bits record DIR [NAME ...]     # in the checkout of each state
python -m tests.same_bits compare A B [NAME ...]    # exit status 1 if anything differs

Both folders must come from one machine: another processor may add in another order.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

ROOT = Path(__file__).parents[1]
TIMING_KEYS = ("examples_per_second", "data_wait", "device_busy", "seconds")

STEPS = "--seed 0 --steps 30 --warmup 5 --report-every 10 --eval-every 15"
BOXES = "--image-size 64 --max-detections 20"
REGIONS = "--max-proposals 60 --regions 32 --pool-size 3 --units 32"
RUNS = {
    "classify": "classify",
    "classify_mixed": "classify --mixup 0.2 --cutmix 1.0 --label-smoothing 0.1 --crop pad --flip "
    "--policy trivial --erase 0.5",
    "classify_devices": "classify --model vgg11_bn --width 0.125 --accumulate 2 --ema 0.99",
    "annotate": "annotate",
    "annotate_warp": "annotate --loss warp --warp-ranks sampled --decision per-label",
    "yolo": f"detect --system yolo --width 0.125 --grid 4 {BOXES}",
    "fast_yolo": "detect --system yolo --model fast_yolo --width 0.125 --batch-norm --grid 4 "
    f"--boxes free --boxes-per-cell 2 --classes sse --scale 0.2 --translate 0.2 --hue 0.1 {BOXES}",
    "fast_rcnn": f"detect --system fast_rcnn --width 0.25 {BOXES} {REGIONS}",
    "fast_rcnn_vgg": "detect --system fast_rcnn --model vgg11 --stage stage3 --width 0.125 "
    f"--pooling align --box-statistics data --frozen backbone/conv1 {BOXES} {REGIONS}",
    "rcnn": "detect --system rcnn --width 0.25 --crop-size 16 --proposal-size 32 "
    f"--max-proposals 30 --train-examples 200 --fit-images 100 --batch-size 64 {BOXES}",
    "segment": "segment --image-size 64 --width 0.125",
    "segment_unpool": "segment --model resnet18 --image-size 48 --width 0.125 --output-stride 1 "
    "--upsampling unpool --loss both",
    "segment_unet": "segment --model unet_same --image-size 48 --width 0.0625 --elastic 5 "
    "--rotate 30 --class-weights median_frequency",
    "translate": "translate",
}
EVALUATED_AGAIN = {
    "annotate": "--split test",
    "fast_rcnn": "--svd 8 8",
    "translate": "--split test --beam 2",
}
DEVICES = {"classify_devices": "2"}


def timing(key):
    """Of this version and of earlier ones."""
    return key in TIMING_KEYS or key.startswith("time_")


def record(folder: Path, names: list[str]) -> bool:
    """Each run is trained into `folder/NAME` and logged in `folder/NAME.log`; whether all ended."""
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name in names:
        verb, *flags = f"{RUNS[name]} {STEPS}".split()
        if "rcnn" in flags:
            flags += ["--proposal-cache", f"{folder / 'proposals'}", "--proposal-workers", "2"]
        command = [sys.executable, "-m", f"experiments.{verb}", "--out", f"{folder / name}"]
        commands = [[*command, *flags]]
        if name in EVALUATED_AGAIN:
            commands.append([*command, "--eval-only", *EVALUATED_AGAIN[name].split()])
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": DEVICES.get(name, "1"),
            "JAX_COMPILATION_CACHE_DIR": f"{folder / 'compiled'}",
        }
        shutil.rmtree(folder / name, ignore_errors=True)
        before = os.times()
        with (folder / f"{name}.log").open("w") as log:
            options = {"env": environment, "stdout": log, "stderr": subprocess.STDOUT, "cwd": ROOT}
            results.append(all(subprocess.run(c, **options).returncode == 0 for c in commands))
        user, system, elapsed = (x - y for x, y in zip(os.times()[2:], before[2:], strict=True))
        ending = "" if results[-1] else f"   FAILED, see {log.name}"
        print(f"{name:18}{elapsed:7.1f} s{user + system:9.1f} s of processors{ending}", flush=True)
    return all(results)


def leaves(run: Path) -> dict[str, tuple]:
    """Type, shape and bytes of every array of the newest checkpoint of each kind, by path."""
    found = {}
    for folder in ("checkpoints", "best", "finished"):
        steps = [int(path.name) for path in (run / folder).glob("*") if path.name.isdecimal()]
        if not steps:
            continue
        place = run / folder / str(max(steps))
        stored = flatten_dict(ocp.PyTreeCheckpointer().restore(place / "state"), sep="/")
        # The manifest also names arrays without elements, which Orbax does not store.
        manifest = json.loads((place / "manifest" / "metadata").read_text())["leaves"]
        known = {path: (entry["dtype"], entry["shape"]) for path, entry in manifest.items()}
        known |= {path: (str(x.dtype), x.shape, x.tobytes()) for path, x in stored.items()}
        found |= {f"{folder}/{max(steps)}/{path}": leaf for path, leaf in known.items()}
    return found


def rows(run: Path) -> dict[str, str]:
    """Every value of the run's metrics as it is written, by row and name, without timing."""
    path, found = run / "metrics.jsonl", {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        row = json.loads(line)
        place = f"row {number} (step {row['step']}, {row['split']})"
        found |= {f"{place} {k}": json.dumps(v) for k, v in row.items() if not timing(k)}
    return found


def compare(a: Path, b: Path, names: list[str]) -> bool:
    """A table of what differs, and each difference; whether there is none and nothing missing."""
    print(f"{'run':18}{'leaves':>8}{'differ':>8}{'values':>8}{'differ':>8}")
    differences, same = [], True
    for name in names:
        cells = ""
        for kind, read in (("leaf", leaves), ("metric", rows)):
            x, y = read(a / name), read(b / name)
            differ = [key for key in sorted(x | y) if x.get(key) != y.get(key)]
            same &= bool(x and y and not differ)
            cells += f"{len(x | y):8}{len(differ) if x and y else 'missing':>8}"
            if kind == "metric":
                differ = [f"{k}: {x.get(k, 'none')} / {y.get(k, 'none')}" for k in differ]
            differences += [f"{name}: {text}" for text in differ if x and y]
        print(f"{name:18}{cells}", flush=True)
    print("\n".join(["", *differences] if differences else ["the same bits" if same else ""]))
    return same


def main() -> None:
    """Parse the command line and exit with 0 where all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command, folders in (("record", ["folder"]), ("compare", ["a", "b"])):
        added = commands.add_parser(command)
        for folder in folders:
            added.add_argument(folder, type=lambda text: Path(text).absolute())
        added.add_argument("names", nargs="*", metavar="NAME", default=list(RUNS))
    given = vars(parser.parse_args())
    sys.exit(not {"record": record, "compare": compare}[given.pop("command")](**given))


if __name__ == "__main__":
    main()
