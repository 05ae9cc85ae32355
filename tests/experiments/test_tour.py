"""The tour runs as it stands, learns, repeats itself, and stays short."""

import math
import re
from pathlib import Path

from experiments import tour


def test_the_tour_trains_evaluates_and_repeats_itself(capsys):
    first = tour.main()
    lines = capsys.readouterr().out.splitlines()
    losses = [float(re.fullmatch(r"step +\d+  loss (\d+\.\d+)", line)[1]) for line in lines[:10]]
    # Ten classes, drawn evenly: an untrained network's loss is near log(10), a diverged one's not.
    assert len(losses) == tour.STEPS
    assert all(abs(loss - math.log(10)) < 1 for loss in losses)
    assert {"loss", "top1", "top5", "mean_class_accuracy"} <= set(first)
    assert 0.3 < first["top5"] <= 1
    again = tour.main()
    assert capsys.readouterr().out.splitlines()[:10] == lines[:10]
    del first["examples_per_second"], again["examples_per_second"]
    assert again == first


def test_the_tour_is_read_in_one_sitting():
    assert len(Path(tour.__file__).read_text().splitlines()) <= 100
