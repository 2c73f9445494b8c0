"""Parameters: values and files, taken and put back exactly."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopilot.core.gradient import Gradient
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import MissingSourceError, ParameterError


@pytest.fixture
def rules(tmp_path):
    folder = tmp_path / "rules"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("a\n")
    (folder / "b.txt").write_text("b\n")
    (folder / "deep" / "c.md").write_text("c\n")
    return folder


def test_a_snapshot_is_a_copy():
    parameter = Parameter({"words": ["a"]})
    before = parameter.snapshot()
    parameter.data["words"].append("b")
    parameter.restore(before)
    parameter.data["words"].append("c")
    parameter.restore(before)
    assert parameter.data == {"words": ["a"]}


@dataclass
class Limits(Parameter):
    low: float = 0.1
    words: list[str] = field(default_factory=list)


def test_a_dataclass_is_a_parameter_that_holds_its_fields():
    limits = Limits(0.2, ["a"])
    assert (limits.grad, limits.requires_grad, limits.name) == (None, True, "")
    before = limits.snapshot()
    limits.low = 0.9
    limits.words.append("b")
    assert limits.snapshot() == {"low": 0.9, "words": ["a", "b"]}
    assert limits.render() == "Limits(low=0.9, words=['a', 'b'])"
    limits.restore(before)
    limits.words.append("c")
    limits.restore(before)
    assert (limits.low, limits.words) == (0.2, ["a"])
    limits.accumulate_grad(Gradient("wider"))
    assert limits.grad.render() == "wider"
    assert Parameter(1).data == 1


def test_two_dataclasses_of_one_value_are_two():
    first, second = Limits(), Limits()
    assert first != second
    assert len({first, second, first}) == 2

    @dataclass(slots=True)
    class Slotted(Parameter):
        low: float = 0.1

    assert Slotted() != Slotted()
    assert Slotted(0.3).snapshot() == {"low": 0.3}


def test_a_dataclass_is_optimized_and_rolled_back():
    class Narrow(Optimizer):
        def step(self):
            (limits,) = self.parameters
            limits.low += 1
            return Step(f"low is {limits.low}", "up")

    class Mine(AutoPilotModule):
        def __init__(self):
            super().__init__()
            self.limits = Limits(0.0)

        def forward(self, batch):
            return Datum(success=self.limits.low == 1.0, feedback="raise it")

        def configure_optimizers(self):
            return Narrow(self.parameters())

    module, trainer = Mine(), Trainer()
    result = trainer.fit(module, [{"id": "a"}], [{"id": "b"}], max_epochs=2)
    assert [record.verdict for record in trainer.experiment.history[1:]] == ["kept", "rejected"]
    assert (result.best_epoch, module.limits.low) == (1, 1.0)


def test_dataclasses_that_cannot_be_parameters():
    @dataclass(frozen=True)
    class Fixed(Parameter):
        low: float = 0.1

    @dataclass
    class Named(Parameter):
        name: str = "x"

    @dataclass
    class Rules(PathParameter):
        source: str = "rules.txt"

    for make, says in (
        (Fixed, "Fixed is a frozen dataclass"),
        (Named, "Named.name is a field, and every parameter's own"),
        (Rules, "Rules is a dataclass, whose __init__ leaves out that of PathParameter"),
    ):
        with pytest.raises(ParameterError, match=says) as caught:
            make()
        assert caught.value.hint


def test_gradients_accumulate():
    parameter = Parameter()
    parameter.accumulate_grad(Gradient("a"))
    parameter.accumulate_grad(Gradient("b"))
    assert parameter.grad.render() == "a\nb"


def test_the_files_that_match(rules):
    assert PathParameter(rules).files() == ["a.md", "b.txt", "deep/c.md"]
    assert PathParameter(rules, "*.md").files() == ["a.md"]
    assert PathParameter(rules, "**/*.md").files() == ["a.md", "deep/c.md"]
    assert PathParameter(rules / "a.md").files() == ["a.md"]
    parameter = PathParameter(rules)
    parameter.ignores = lambda name: name.endswith(".txt")
    assert parameter.files() == ["a.md", "deep/c.md"]
    assert not parameter.matches("b.txt")


def test_it_renders_names_and_texts(rules):
    (rules / "b.txt").write_bytes(b"\0binary")
    (rules / "link").symlink_to("a.md")
    assert PathParameter(rules).render() == (
        "=== a.md\na\n\n=== b.txt\n(binary, 7 bytes)\n=== deep/c.md\nc\n\n"
        "=== link\n(a symbolic link to a.md)"
    )


def test_it_means_the_folder_of_when_it_was_made(rules, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    parameter = PathParameter("rules", "*.md")
    monkeypatch.chdir("/")
    assert parameter.files() == ["a.md"]
    assert repr(parameter) == "PathParameter('rules', '*.md')"


def test_a_missing_source_is_said(tmp_path):
    with pytest.raises(MissingSourceError, match="neither a file nor a folder") as caught:
        PathParameter(tmp_path / "nothing")
    assert caught.value.path == str(tmp_path / "nothing")


def test_texts_are_read_and_written(rules):
    folder, file = PathParameter(rules, "**/*.md"), PathParameter(rules / "a.md")
    assert file.read_text() == "a\n"
    file.write_text("ä\r\n")
    assert (rules / "a.md").read_bytes() == "ä\r\n".encode()
    folder.write_text("new\n", "more/new.md")
    assert folder.read_text("more/new.md") == "new\n"
    os.chmod(rules / "a.md", 0o755)
    file.write_text("x\n")
    assert (rules / "a.md").stat().st_mode & 0o100
    (rules / "a.md").unlink()
    file.write_text("again\n")
    assert file.read_text() == "again\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "has 2 files"),
        ("b.txt", "'b.txt' is not part of the parameter"),
        ("../outside.md", "refusing to write"),
        ("gone.md", "has no file 'gone.md'"),
    ],
)
def test_what_is_no_part_of_it_is_not_read(rules, name, said):
    (rules.parent / "outside.md").write_text("outside\n")
    with pytest.raises(ParameterError, match=said):
        PathParameter(rules, "**/*.md").read_text(name)
    if name == "../outside.md":
        with pytest.raises(ParameterError):
            PathParameter(rules, "**/*.md").write_text("x", name)
        assert (rules.parent / "outside.md").read_text() == "outside\n"


NAMES = st.text("ab[]*?!#ü -.", min_size=1, max_size=6).filter(lambda n: n.strip(".") != "")
FILES = st.dictionaries(NAMES, st.binary(max_size=20), min_size=0, max_size=4)


@settings(max_examples=50)
@given(FILES, FILES)
def test_restore_is_exact(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("any")
    parameter = PathParameter(folder)

    def write(files):
        for old in Path(folder).iterdir():
            old.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)

    write(before)
    snapshot = parameter.snapshot()
    write(after)
    parameter.restore(snapshot)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_file_that_came_to_be_a_folder_is_put_back(rules):
    parameter = PathParameter(rules)
    before = parameter.snapshot()
    (rules / "a.md").unlink()
    (rules / "a.md").mkdir()
    (rules / "a.md" / "inside").write_text("x")
    parameter.restore(before)
    assert (rules / "a.md").read_text() == "a\n"


def test_nothing_is_read_or_written_behind_a_link_that_took_the_folders_place(rules, tmp_path):
    parameter = PathParameter(rules)
    before = parameter.snapshot()
    other = tmp_path / "other"
    other.mkdir()
    (other / "valuable.txt").write_text("mine\n")
    rules.rename(tmp_path / "away")
    rules.symlink_to(other)
    assert parameter.files() == []
    with pytest.raises(ParameterError, match="leads to"):
        parameter.restore(before)
    assert [path.name for path in other.iterdir()] == ["valuable.txt"]
    rules.unlink()
    (tmp_path / "away").rename(rules)
    parameter.restore(before)
    assert parameter.snapshot() == before
