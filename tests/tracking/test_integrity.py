"""What fits, and what is missing in an unfinished epoch; the rest is in `cli/test_replay.py`."""

import math

from experiments import git, make

from autopilot.tracking.integrity import Integrity
from autopilot.tracking.notebook import Notebook


def told(notebook):
    """What does not fit, besides traces: these experiments are made without."""
    found = Integrity(notebook).differences()
    return [(each.epoch, each.what) for each in found if each.what != "traces note"]


def test_epochs_without_a_value_fit(top):
    epochs = [({"a.txt": "a1\n"}, math.nan)]
    notebook = make(top, epochs=epochs, baseline=math.nan, target="rules.py")
    rejected = notebook.epoch(1).record
    assert (rejected.verdict, rejected.best) == ("rejected", None)
    assert told(notebook) == []


def test_a_last_epoch_that_is_not_rolled_back_yet_fits(demo):
    assert demo.epoch(4).verdict == "rejected"
    assert told(Notebook(demo.repo, "demo", tip=demo.epoch(4).commit)) == []


def test_a_step_tells_that_the_epoch_before_has_a_verdict(top, demo):
    kept, step = (demo.epoch(number).commit for number in (3, 4))
    git(top, "notes", "--ref=autopilot/demo/metrics", "remove", kept, step)
    git(top, "tag", "--delete", "autopilot/demo/epoch-0003")
    assert told(Notebook(demo.repo, "demo", tip=step)) == [(3, "metrics note")]
