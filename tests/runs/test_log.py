"""The run's folder as a reader sees it after a run, a kill, a resumption."""

import dataclasses
import errno
import io
import json
import math
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from cnn_jax.errors import UserError
from cnn_jax.runs import log as logs
from cnn_jax.runs.folder import evaluated, is_timing, read_run
from cnn_jax.runs.log import RunLog, plain
from tests.commands import events


class FakeClock:
    """Seconds that a test moves by hand."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def quiet() -> Console:
    return Console(file=io.StringIO(), width=60)


def make_log(directory: Path, **options) -> RunLog:
    return RunLog(directory, **{"total_steps": 100, "console": quiet(), **options})


def report_until(log: RunLog, first: int, last: int) -> None:
    """The reports of an imaginary run: training every 10 steps, an evaluation every 20."""
    for step in range(first, last + 1, 10):
        log.report(step, "train", {"loss": 1 / step, "examples_per_second": 100.0 + first})
        if step % 20 == 0:
            log.report(step, "eval", {"top1": step / 100})
            log.write_result(step, "eval", {"top1": step / 100})


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def without_timing(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not is_timing(k)} for row in rows]


def test_rows_hold_exactly_what_was_reported(tmp_path):
    clock = FakeClock(1000.0)
    with make_log(tmp_path, clock=clock) as log:
        clock.now += 12.5
        metrics = {"loss": jnp.float32(0.1), "top1": np.float32(0.7), "examples_per_second": 81}
        log.report(20, "train", metrics)
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 20, "split": "train", "loss": 0.1, "top1": 0.7, '
        '"examples_per_second": 81, "seconds": 12.5}\n'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_not_finite_are_null_and_nothing_else(tmp_path, value):
    with make_log(tmp_path) as log:
        log.report(1, "eval", {"loss": jnp.float32(value), "top1": value})
        log.write_result(1, "eval", {"loss": jnp.float32(value), "top1": value})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    for name in ("metrics.jsonl", "result.json"):
        row = json.loads((tmp_path / name).read_text(), parse_constant=refuse)
        assert row["loss"] is None
        assert row["top1"] is None
    steps, values = read_run_with_config(tmp_path).series("eval", "top1")
    assert steps == [1]
    assert math.isnan(values[0])


def read_run_with_config(directory: Path):
    (directory / "config.json").write_text("{}")
    return read_run(directory)


@pytest.mark.parametrize("killed_at", [50, 60, 90])
@pytest.mark.parametrize("cut", ["", '{"step": 100, "spl', '{"step": 100, "split": "eval"'])
def test_resuming_leaves_the_file_of_an_uninterrupted_run(tmp_path, killed_at, cut):
    with make_log(tmp_path / "whole") as log:
        report_until(log, 10, 100)

    with make_log(tmp_path / "killed") as log:
        report_until(log, 10, killed_at)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write(cut)
    with make_log(tmp_path / "killed", resumed_step=40) as log:
        report_until(log, 50, 100)

    whole, killed = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    assert len(whole) == 15
    assert without_timing(killed) == without_timing(whole)
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "killed")]
    assert results == [{"step": 100, "split": "eval", "top1": 1.0}] * 2


def test_resuming_takes_back_the_result_of_a_later_step(tmp_path):
    with make_log(tmp_path) as log:
        report_until(log, 10, 100)
    make_log(tmp_path, resumed_step=50).close()
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "step": 40,
        "split": "eval",
        "top1": 0.4,
    }
    make_log(tmp_path, resumed_step=10).close()
    assert not (tmp_path / "result.json").exists()
    assert [row["step"] for row in lines(tmp_path)] == [10]


def test_an_evaluation_without_its_result_counts_as_missing_and_is_reported_once(tmp_path):
    with make_log(tmp_path) as log:
        report_until(log, 10, 30)
        log.report(40, "train", {"loss": 0.1})
        log.report(40, "eval", {"top1": 0.3})  # killed before its page was written
    for _ in range(2):  # once more, killed before anything was done
        assert evaluated(tmp_path, 20)
        assert not evaluated(tmp_path, 40)
        make_log(tmp_path, resumed_step=40).close()
        assert json.loads((tmp_path / "result.json").read_text())["step"] == 20
    with make_log(tmp_path, resumed_step=40) as log:
        log.report(40, "train", {"loss": 0.2})
        log.report(40, "eval", {"top1": 0.4})
        log.write_result(40, "eval", {"top1": 0.4})
    assert [(row["step"], row["split"]) for row in lines(tmp_path)] == [
        *[(10, "train"), (20, "train"), (20, "eval"), (30, "train"), (40, "train"), (40, "eval")]
    ]
    assert [row.get("loss", row.get("top1")) for row in lines(tmp_path)][-2:] == [0.2, 0.4]
    assert evaluated(tmp_path, 40)
    assert not evaluated(tmp_path, 40, "test")


def test_the_clock_of_a_resumed_run_goes_on(tmp_path):
    clock = FakeClock()
    with make_log(tmp_path, clock=clock) as log:
        for step in (10, 20, 30):
            clock.now += 5
            log.report(step, "train", {})
    clock = FakeClock(900.0)
    with make_log(tmp_path, clock=clock, resumed_step=20) as log:
        clock.now += 7
        log.report(30, "train", {})
    assert [row["seconds"] for row in lines(tmp_path)] == [5, 10, 17]
    assert read_run_with_config(tmp_path).seconds == 17


def test_a_new_run_does_not_overwrite_another(tmp_path):
    with make_log(tmp_path) as log:
        log.report(1, "train", {"loss": 1.0})
    with pytest.raises(UserError, match=r"already holds a run.*--resume.*--out"):
        make_log(tmp_path)
    assert len(lines(tmp_path)) == 1


def test_other_processes_write_and_print_nothing(tmp_path, capsys):
    with RunLog(tmp_path / "run", total_steps=10, enabled=False) as log:
        log.write_config({"seed": 1})
        log.write_environment()
        log.advance(5)
        log.phase("evaluating")
        log.message("hello")
        log.report(10, "eval", {"loss": 1.0})
        log.write_result(10, "eval", {"loss": 1.0})
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_tensorboard_reads_the_same_numbers(tmp_path):
    with make_log(tmp_path) as log:
        report_until(log, 10, 40)
    with make_log(tmp_path, resumed_step=20) as log:
        report_until(log, 30, 40)
    written = events(tmp_path)
    # The mark by which TensorBoard drops what the killed process wrote of steps 30 and 40.
    (mark,) = (i for i, event in enumerate(written) if event.HasField("session_log"))
    assert written[mark].step == 21
    first, second = written[: mark - 1], written[mark:]  # a file begins with its version
    assert scalars(first)["train/loss"] == {s: pytest.approx(1 / s) for s in (10, 20, 30, 40)}
    assert scalars(first)["eval/top1"] == {s: pytest.approx(s / 100) for s in (20, 40)}
    assert scalars(second)["eval/top1"] == {40: pytest.approx(0.4)}


def png(side: int, shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side + 1), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def draw(log: RunLog, step: int, **drawn: bytes) -> None:
    """The pictures of an evaluation, as a report leaves them."""
    samples = log.directory / "samples"
    shutil.rmtree(samples, ignore_errors=True)
    samples.mkdir()
    for name, content in drawn.items():
        (samples / f"{name}.png").write_bytes(content)
    log.report_pictures(step, "eval")


def test_tensorboard_has_the_pictures_of_every_evaluation(tmp_path):
    worst, later, some = png(3, 10), png(4, 20), png(5, 30)
    with make_log(tmp_path) as log:
        draw(log, 20, worst=worst, some=some)
        draw(log, 40, worst=later, predict_1=some)
    found = [(e.step, v) for e in events(tmp_path) for v in e.summary.value]
    kept = [(step, v.tag, v.image.encoded_image_string) for step, v in found]
    assert kept == [(20, "eval/some", some), (20, "eval/worst", worst), (40, "eval/worst", later)]
    assert [(v.image.width, v.image.height) for _, v in found] == [(5, 6), (3, 4), (4, 5)]


def test_tensorboard_itself_reads_scalars_and_pictures(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    with make_log(tmp_path) as log:
        report_until(log, 10, 40)
        draw(log, 40, worst=png(3, 10))
    reader = accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("eval/top1")] == [
        (20, pytest.approx(0.2)),
        (40, pytest.approx(0.4)),
    ]
    (picture,) = reader.Images("eval/worst")
    assert (picture.step, picture.encoded_image_string) == (40, png(3, 10))


def test_another_process_than_the_first_writes_no_pictures(tmp_path):
    draw(make_log(tmp_path, enabled=False), 20, worst=png(3, 10))
    assert not list(tmp_path.glob("events.*"))


def scalars(found: list) -> dict[str, dict[int, float]]:
    result: dict[str, dict[int, float]] = {}
    for event in found:
        for value in event.summary.value:
            result.setdefault(value.tag, {})[event.step] = value.simple_value
    return result


@dataclasses.dataclass
class Options:
    model: str = "resnet18"
    out: Path = Path("runs/a")
    dtype: type = jnp.bfloat16
    mean: tuple[float, ...] = (0.5, np.float32(0.1))
    steps: int | None = None


def test_config_holds_every_option(tmp_path):
    with make_log(tmp_path) as log:
        log.write_config(Options())
        log.report(1, "train", {})
    assert read_run(tmp_path).config == {
        "model": "resnet18",
        "out": "runs/a",
        "dtype": "bfloat16",
        "mean": [0.5, 0.1],
        "steps": None,
    }


def test_environment_names_versions_devices_and_command(tmp_path, monkeypatch):
    import jax

    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setenv("JAX_TEST_VARIABLE", "yes")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    with make_log(tmp_path) as log:
        log.write_environment()
    text = (tmp_path / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["device_count"] == 4
    assert environment["host_count"] == 1
    assert environment["backend"] == "cpu"
    assert environment["command"].startswith("python ")
    assert environment["variables"]["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert environment["variables"]["JAX_TEST_VARIABLE"] == "yes"
    assert "hidden" not in text


def test_environment_of_every_resumption_is_kept(tmp_path):
    make_environment(tmp_path, None)
    make_environment(tmp_path, 10)
    make_environment(tmp_path, 20)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["resumed_step"] == 20
    assert [e.get("resumed_step") for e in environment["earlier"]] == [None, 10]


@pytest.mark.parametrize(("now", "told"), [(3, True), (2, False)])
def test_another_number_of_processors_is_told(tmp_path, monkeypatch, now, told):
    """XLA divides sums among them, so a resumed run may end with other last bits."""
    messages = []
    monkeypatch.setattr(RunLog, "message", lambda self, text: messages.append(text))
    for count, step in ((2, None), (now, 10)):
        monkeypatch.setattr("cnn_jax.processors.available", lambda count=count: count)
        make_environment(tmp_path, step)
    said = [text for text in messages if text.startswith("processors: 2 before, now 3: sums may")]
    assert messages == said and len(said) == told


def make_environment(directory: Path, resumed_step: int | None) -> None:
    with make_log(directory, resumed_step=resumed_step) as log:
        log.write_environment()


def test_commit_is_absent_outside_of_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "commit" not in logs.describe_environment()


def test_a_full_disk_is_a_user_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = make_log(tmp_path)
    monkeypatch.setattr(Path, "open", full)
    for write in (
        lambda: log.report(1, "train", {"loss": 1.0}),
        lambda: log.write_config({}),
        lambda: log.write_result(1, "eval", {}),
    ):
        with pytest.raises(UserError, match=r"the disk is full.*--resume"):
            write()


def test_a_disk_that_is_full_at_tensorboard_s_file_is_a_user_error(tmp_path, monkeypatch):
    file = Path("/dev/full").open("wb")  # noqa: SIM115
    log = make_log(tmp_path)
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: file)
    with pytest.raises(UserError, match=rf"{tmp_path}: the disk is full.*--resume"):
        log.report(1, "train", {"loss": 1.0})
    with pytest.raises(UserError, match="the disk is full"):
        log.close()
    log.close()
    assert len(lines(tmp_path)) == 1
    assert file.raw.closed


def test_an_out_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written"):
        make_log(tmp_path / "file")


def test_a_failed_replacement_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    log = make_log(tmp_path)
    log.write_result(1, "eval", {"top1": 0.5})
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(UserError, match=r"result\.json: cannot be written: broken"):
        log.write_result(2, "eval", {"top1": 0.6})
    assert json.loads((tmp_path / "result.json").read_text())["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_lines_are_few_without_a_terminal(tmp_path):
    clock, console = FakeClock(), quiet()
    with RunLog(tmp_path, total_steps=400, console=console, clock=clock) as log:
        for step in range(1, 401):
            clock.now += 0.1
            log.advance(step)
            log.report(step, "train", {"loss": 2.0, "top1": 0.5, "examples_per_second": 1234.5})
            if step % 100 == 0:
                log.report(step, "eval", {"loss": 1.5, "top1": 0.61})
    printed = console.file.getvalue().splitlines()
    train = [line for line in printed if " train " in line]
    assert len(train) == 21  # The first, then one at each twentieth.
    assert train[-1] == "400/400  train  top-1 50.00 %  loss 2  1,234 examples/s"
    assert printed[-1] == "400/400  eval   top-1 61.00 %  loss 1.5"
    assert len(printed) == 21 + 4
    assert len(lines(tmp_path)) == 404


def test_a_slow_run_still_shows_that_it_lives(tmp_path):
    clock, console = FakeClock(), quiet()
    with RunLog(tmp_path, total_steps=10**6, console=console, clock=clock) as log:
        for step in range(1, 11):
            clock.now += 30
            log.report(step, "train", {"loss": 2.0})
    assert len(console.file.getvalue().splitlines()) == 5


def test_a_terminal_gets_every_line_and_a_bar(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RunLog(tmp_path, total_steps=100, console=console) as log:
        for step in range(1, 101):
            log.advance(step)
            if step % 10 == 0:
                log.report(step, "train", {"loss": 0.25, "examples_per_second": 512.0})
    text = console.file.getvalue()
    assert text.count(" train ") == 10
    assert "100/100" in text
    assert "512 examples/s" in text
    assert "loss 0.25" in text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_metrics_read_back_bit_for_bit(value):
    text = json.dumps(plain(np.float32(value)))
    assert np.float32(json.loads(text)) == np.float32(value)
    assert plain(jnp.float32(value)) == plain(np.float32(value))


def test_plain_of_arrays_and_containers():
    value = {"a": np.arange(3), 1: (True, None, {2}), "b": np.float64(0.1), "c": np.int64(7)}
    assert plain(value) == {"a": [0, 1, 2], "1": [True, None, [2]], "b": 0.1, "c": 7}
    assert type(plain(np.float64(0.1))) is float
    assert plain(jnp.array([0.5, math.nan], jnp.bfloat16)) == [0.5, None]


def test_an_evaluation_made_again_joins_the_rows(tmp_path):
    clock = FakeClock()
    with make_log(tmp_path, clock=clock) as log:
        clock.now += 5
        report_until(log, 10, 40)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "sp')
    with make_log(tmp_path, appended=True) as log:
        log.report(20, "test", {"top1": 0.5})
        log.write_result(20, "test", {"top1": 0.5})
    rows = lines(tmp_path)
    assert [(row["step"], row["split"]) for row in rows[-2:]] == [(40, "eval"), (20, "test")]
    assert len(rows) == 7
    assert rows[-1]["seconds"] >= 5
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "step": 20,
        "split": "test",
        "top1": 0.5,
    }
    with make_log(tmp_path / "new", appended=True) as log:
        log.report(20, "test", {"top1": 0.5})
    assert len(lines(tmp_path / "new")) == 1
