"""A slice of the campaign, and that a campaign can fail, hang and go on."""

import json

import pytest

from tests.faults import __main__ as command
from tests.faults import campaign
from tests.faults.campaign import Worker
from tests.faults.toy import TARGETS, kinds


@pytest.fixture
def worker():
    worker = Worker(kinds, seed=1)
    yield worker
    worker.close()


def test_what_becomes_of_each_case(worker):
    results = {t: worker.attempt(f"toy/{t}/0", 2.0) for t in TARGETS}
    assert {t: r.outcome for t, r in results.items()} == {
        "accepts": "accepted", "refuses": "refused", **dict.fromkeys(TARGETS[2:], "fault"),
    }  # fmt: skip
    assert results["hangs"].problem == "hangs: not done after 2 s"
    assert "MemoryError" in results["swells"].problem
    assert results["breaks"].what.startswith("breaks of ")


def test_a_campaign_goes_on_and_its_status_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "kinds", kinds)
    record = tmp_path / "r.jsonl"
    arguments = ["--seed", "3", "--record", str(record), "--workers", "1"]
    assert command.main([*arguments, "--target", "accepts", "--most", "2"]) == 0
    assert len(record.read_text().splitlines()) == 3
    assert command.main([*arguments, "--target", "accepts", "--target", "breaks"]) == 1
    cases = [json.loads(line)["case"] for line in record.read_text().splitlines()[1:]]
    assert len(cases) == len(set(cases)) == 6
    assert "--seed 3 --case toy/breaks/0" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="a campaign of another seed"):
        command.main(["--seed", "4", "--record", str(record)])


def test_a_case_is_the_same_each_time():
    first, second = (campaign.generator(5, "data/voc/7").random(3).tolist() for _ in range(2))
    assert first == second != campaign.generator(6, "data/voc/7").random(3).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "targets", "count"),
    [
        ("flags", None, 320),
        ("data", None, 160),
        ("tfds", None, 6),
        ("runs", ["classify", "translate"], 6),
        ("starts", ["classify", "translate", "yolo"], 5),
    ],
)
def test_a_slice_of_the_campaign_finds_no_fault(kind, targets, count, tmp_path, capsys):
    chosen = [word for target in targets or () for word in ("--target", target)]
    arguments = ["--seed", "0", "--kind", kind, "--most", str(count), "--workers", "1"]
    arguments += ["--minutes", "15", "--patience", "6", "--record", str(tmp_path / "record.jsonl")]
    assert command.main([*arguments, *chosen]) == 0, capsys.readouterr().out
