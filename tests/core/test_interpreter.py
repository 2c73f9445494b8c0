"""The seeds of chance, also of packages that are imported late."""

import importlib
import random
import sys
import textwrap

import pytest

from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.interpreter import leave, seed_everything
from autopilot.core.items import as_batch
from autopilot.core.module import AutoPilotModule
from autopilot.core.progress import Position
from autopilot.core.types import Datum


def test_numpys_chance_is_seeded_too():
    numpy = pytest.importorskip("numpy")
    seed_everything("a", 1)
    one = (random.random(), numpy.random.rand())
    seed_everything("a", 1)
    assert (random.random(), numpy.random.rand()) == one


STAND_IN = """
    import random as _random

    _generator = _random.Random()

    class random:
        seed = staticmethod(_generator.seed)
        rand = staticmethod(_generator.random)

    manual_seed = _generator.seed
    rand = _generator.random
    at_import = _generator.random()
"""


@pytest.fixture(params=["numpy", "torch"])
def late(request, tmp_path, monkeypatch):
    """A package of that name that is not imported yet."""
    folder = tmp_path / request.param
    folder.mkdir()
    (folder / "__init__.py").write_text(textwrap.dedent(STAND_IN))
    (folder / "more.py").write_text("import sys\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    for name in [name for name in sys.modules if name.partition(".")[0] == request.param]:
        del sys.modules[name]
    importlib.invalidate_caches()
    yield request.param
    leave()
    sys.modules.pop(request.param, None)


def drawn(name):
    module = sys.modules[name]
    return module.rand() if name == "torch" else module.random.rand()


def test_what_is_imported_late_is_seeded_as_if_it_had_been_there(late):
    seed_everything(7, "val", 3)
    assert late not in sys.modules
    importlib.import_module(f"{late}.more")
    first = (drawn(late), drawn(late))
    seed_everything(7, "val", 3)
    assert (drawn(late), drawn(late)) == first
    seed_everything(7, "val", 4)
    assert (drawn(late), drawn(late)) != first


def test_a_package_that_is_imported_late_looks_as_always(late):
    seed_everything(7)
    module = importlib.import_module(late)
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__.loader is module.__loader__
    assert module.__loader__.get_source(late).strip().startswith("import random")


def test_after_the_run_nothing_is_seeded(late):
    before = list(sys.meta_path)
    seed_everything(7)
    seed_everything(8)
    assert len(sys.meta_path) == len(before) + 1
    leave()
    leave()
    assert sys.meta_path == before


def test_an_import_that_fails_fails_as_always(late, tmp_path):
    (tmp_path / late / "__init__.py").write_text("raise ImportError('no wheel')\n")
    seed_everything(7)
    with pytest.raises(ImportError, match="no wheel"):
        importlib.import_module(late)
    assert late not in sys.modules
    seed_everything(8)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_a_module_of_that_name_without_a_generator_is_left_alone(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, object())
    seed_everything(7)


class Draws(AutoPilotModule):
    """Imports the package in the middle of a batch, and answers with chance."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, batch):
        importlib.import_module(self.name)
        return Datum(
            items=[Datum(success=True, metrics={"x": drawn(self.name)}) for _ in batch.items]
        )


def test_a_batch_draws_the_same_whenever_the_package_was_imported(late):
    def values():
        module = Draws(late)
        experiment = Experiment()
        experiment.open(module.parameters())
        evaluator = Evaluator(module, experiment, 7)
        batches = [as_batch([{"id": f"{number}"}] * 2) for number in range(2)]
        done = [evaluator.run(Position("val", 0, n), batch) for n, batch in enumerate(batches)]
        evaluator.close()
        return [item.metrics["x"] for data in done for item in data.items]

    first = values()
    # A resumed run in the same process has it already; one in another imports it anew.
    assert values() == first
    del sys.modules[late]
    assert values() == first


def test_numpy_itself():
    pytest.importorskip("numpy")
    import subprocess

    program = """
        import random, sys
        from autopilot.core.interpreter import seed_everything
        if len(sys.argv) > 1:
            import numpy
        seed_everything("a", 1)
        assert len(sys.argv) > 1 or "numpy" not in sys.modules
        import numpy.linalg, numpy.random
        print(random.random(), numpy.random.rand())
    """

    def said(*arguments):
        command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said() == said() == said("early")


def test_random_is_seeded():
    seed_everything("a", 1)
    first = random.random()
    seed_everything("a", 1)
    assert random.random() == first
    leave()
