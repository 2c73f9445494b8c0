"""What `autopilot project init` writes: a small project that improves itself without a model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from autopilot.data.dataset import ListDataset
from autopilot.engine.checkout import load_command_line
from autopilot.errors import SlugError, UsageError
from autopilot.projects.projects import PROJECTS, Project
from autopilot.tracking.layout import Layout

WORKSPACE_FILES = {
    "autopilot/pyproject.toml": """\
# What the projects below projects/ need. Install it with: uv sync, or pip install autopilot
[project]
name = "{workspace}-autopilot"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["autopilot"]

[tool.uv]
package = false
""",
    "autopilot/.gitignore": "__pycache__/\n.venv/\n",
}

PROJECT_FILES = {
    "cli.py": '''\
"""The project's command line.

Used as: autopilot -p {project} COMMAND
or:      python {path}/cli.py COMMAND
"""

from ai.generator import MessageGenerator
from ai.judge import MessageJudge
from trainer import SpamFilter

from autopilot.cli.main import AutoPilotCLI


class ProjectCLI(AutoPilotCLI, project="{project}"):
    def __init__(self):
        super().__init__()
        self.module = SpamFilter
        self.generator = MessageGenerator()
        self.judge = MessageJudge()


ProjectCLI()()
''',
    "trainer.py": '''\
"""What is optimized: a spam filter, made of the words in rules.txt. Put your own system here."""

import re
from collections import Counter
from pathlib import Path

from ai.judge import MessageJudge

from autopilot import (
    AutoPilotModule,
    DataLoader,
    Datum,
    EarlyStopping,
    ListDataset,
    PathParameter,
    Rule,
    RuleOptimizer,
)

HERE = Path(__file__).parent


def words(text):
    return set(re.findall("[a-z]+", text.lower()))


class SpamFilter(AutoPilotModule):
    """A message with one of the words in rules.txt is spam."""

    def __init__(self, batch_size: int = 8, shortest_word: int = 5):
        super().__init__()
        self.rules = PathParameter(HERE / "rules.txt")  # what the optimizer may edit
        self.batch_size = batch_size
        self.shortest_word = shortest_word

    def forward(self, batch):
        spam_words = words(self.rules.read_text())
        return Datum(items=[self.answer(spam_words, item) for item in batch.items])

    def answer(self, spam_words, item):
        found = spam_words & words(item.metadata["text"])
        return Datum(metadata={"answer": "spam" if found else "fine"})

    def configure_judge(self):
        return MessageJudge()  # scores every answer, of every split

    def configure_optimizers(self):
        return RuleOptimizer(self.parameters(), [AddWord(self.shortest_word), DropWord()])

    def configure_callbacks(self):
        return [EarlyStopping(patience=4, target=1.0)]

    def train_dataloader(self):
        return DataLoader(load("train"), self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(load("val"), self.batch_size)

    def test_dataloader(self):
        return DataLoader(load("test"), self.batch_size)


def load(split):
    return ListDataset.from_jsonl(HERE / "datasets" / f"{split}.jsonl")


class AddWord(Rule):
    """Adds a word that the missed spam has in common."""

    name = "add word"

    def __init__(self, shortest_word):
        self.shortest_word = shortest_word

    def apply(self, parameter, gradient):
        missed = [f.direction for f in gradient.findings if f.direction.startswith("missed")]
        counts = Counter(word for text in missed for word in words(text) - {"missed"})
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        ranked = [word for word in ranked if len(word) >= self.shortest_word]
        if not ranked:
            return None
        word = ranked[self.attempt % min(len(ranked), 3)]
        parameter.write_text(parameter.read_text() + f"{word}\\n")
        return f"add {word!r}"


class DropWord(Rule):
    """Drops the word that is in the most false alarms."""

    name = "drop word"

    def apply(self, parameter, gradient):
        alarms = [f.direction for f in gradient.findings if f.direction.startswith("false alarm")]
        rules = parameter.read_text().split()
        counts = {word: sum(word in words(text) for text in alarms) for word in rules}
        worst = max(counts, key=counts.get, default=None)
        if worst is None or not counts[worst]:
            return None
        parameter.write_text("".join(f"{word}\\n" for word in rules if word != worst))
        return f"drop {worst!r}"
''',
    "rules.txt": "the\ntoday\n",
    "ai/judge.py": '''\
"""Says whether an answer is right, and what would make it right."""

from autopilot import Judge, PythonStep


def compare(state):
    answer, label = state["output"]["answer"], state["target"]["label"]
    if answer == label:
        return {"success": True}
    mistake = "missed" if label == "spam" else "false alarm"
    return {"success": False, "feedback": f"{mistake}: {state['text']}"}


class MessageJudge(Judge):
    """Compares answer and label; an LLMStep in its place would ask a model."""

    steps = (PythonStep("compare", compare),)
''',
    "ai/generator.py": '''\
"""Makes messages like those in datasets/; an LLMStep in its place would ask a model."""

from autopilot import DataGenerator, PythonStep

GREETINGS = ["Hello", "Hi", "Hey", "Hi Ada", "Hey you", "Hi Bob", "PS", "Oh", "Sir", "Yo"]
BODIES = {
    "spam": [
        "your prize: money",
        "win a prize today",
        "cheap pills today",
        "the casino has a prize for you",
        "casino bonus for you",
        "get the money and a bonus",
        "pills, so cheap",
        "money from our casino",
        "a bonus of cheap pills",
        "the prize: pills",
        "we send you money today",
        "casino today, bonus now",
    ],
    "fine": [
        "are you free for lunch today",
        "the report is attached",
        "can you send me the slides",
        "the parcel came today",
        "shall we meet at the office",
        "the train was late today",
        "our call is on Tuesday",
        "the invoice has been paid",
        "see you at the concert",
        "we moved the meeting",
        "please bring more paper",
        "the keys are at the desk",
    ],
}


def message(state):
    slot = int(state["slot"])
    bodies = BODIES[state["label"]]
    text = f"{GREETINGS[slot % len(GREETINGS)]}, {bodies[slot // len(GREETINGS) % len(bodies)]}"
    return {"text": text, "label": state["label"]}


class MessageGenerator(DataGenerator):
    def __init__(self):
        super().__init__([PythonStep("message", message)], {"label": ["spam", "fine"]})
''',
    "experiments/hparams.json": '{\n  "batch_size": 8\n}\n',
}
_ITEMS = 120


def make_workspace(folder: Path) -> list[Path]:
    """Writes what a workspace is known by; files that are there stay.

    Returns:
        The new files.
    """
    files = {folder / name: text for name, text in WORKSPACE_FILES.items()}
    return _write(files, {"workspace": _slug(folder.resolve().name)})


def make_project(project: Project) -> list[Path]:
    """Writes a project that can be run at once.

    Its datasets are made by its own generator.

    Returns:
        The new files.

    Raises:
        SlugError: experiments cannot have such a name in front of theirs.
        UsageError: it exists already; nothing is written.
    """
    try:
        Layout(f"{project.name}/run-1")
    except SlugError as error:
        raise SlugError(f"{project.name!r} cannot be a project's name", hint=error.hint) from error
    if project.folder.exists():
        raise UsageError(
            f"{project.folder} exists already",
            hint=f"autopilot project doctor {project.name} looks at it, or choose another name",
        )
    files = {project.folder / name: text for name, text in PROJECT_FILES.items()}
    path = (PROJECTS / project.name).as_posix()
    written = _write(files, {"project": project.name, "path": path})
    with tempfile.TemporaryDirectory() as folder:
        load_command_line(project.file).generator.run(_ITEMS, folder)
        for made in sorted(Path(folder).glob("[tv]*.jsonl")):
            place = project.datasets / made.name
            ListDataset.from_jsonl(made).to_jsonl(place)
            written.append(place)
    return written


def _write(files: dict[Path, str], names: dict[str, str]) -> list[Path]:
    new = [path for path in files if not path.exists()]
    for path in new:
        text = files[path]
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return new


def _slug(name: str) -> str:
    clean = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return clean.strip("-") or "workspace"
