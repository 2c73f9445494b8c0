"""What holds for the code as a whole: floors, names, sizes, docs."""

import ast
import functools
import graphlib
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import autopilot

HOME = Path(autopilot.__file__).parent
FILES = sorted(HOME.rglob("*.py"))
NAMES = {
    path: ".".join(
        part for part in path.relative_to(HOME.parent).with_suffix("").parts if part != "__init__"
    )
    for path in FILES
}

# Strangers on one floor import nothing of one another.
FLOORS = [
    {"errors", "files", "audit", "text"},
    {"core", "git"},
    {"data", "policy", "tracking", "tuning"},
    {"sharing", "sandbox", "report"},
    {"ai", "review"},
    {"command", "engine"},
    {"projects", "proof"},
    {"testing"},
    {"cli"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Which may look into the room beside it: files raise errors, an audit trail has no secrets.
NEIGHBOURS = {("files", "errors"), ("audit", "text")}
TOP = {"autopilot", "autopilot.__main__"}

# The weight of the house, with everything that is planned for it.
FILES_AT_MOST, LINES_AT_MOST = 258, 67_555
# Files with more than 400 lines, and why they are not two.
LONG = {
    "autopilot.core.experiment": "one class, everything that happens to an experiment",
    "autopilot.core.records.record": "all that is written down, half of it docstrings of fields",
    "autopilot.core.trainer": "half of it is docstrings of the class that users read most",
    "autopilot.tracking.notebook": "one class, the one reader of a recorded experiment",
}


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def imports_of(path):
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            # `from autopilot.core import graph` imports a module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_room_has_its_floor():
    rooms = {room_of(name) for name in NAMES.values()} - {"", "__main__"}
    assert rooms <= FLOOR_OF.keys()


def test_imports_only_go_down():
    upwards = []
    for path, name in NAMES.items():
        if name in TOP:
            continue
        room = room_of(name)
        for imported in imports_of(path):
            target = room_of(imported)
            if not imported.startswith("autopilot.") or target not in FLOOR_OF or target == room:
                continue
            if FLOOR_OF[target] >= FLOOR_OF[room] and (room, target) not in NEIGHBOURS:
                upwards.append(f"{name} imports {imported}")
    assert upwards == []


def graph_of_imports():
    """Each file with the files that it imports, type-only and function-level imports included."""
    known = set(NAMES.values())
    edges = {name: set() for name in known}
    for path, name in NAMES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                files = {f"{node.module}.{alias.name}" for alias in node.names} & known
                edges[name] |= files or {node.module} & known
            elif isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names} & known
    return edges


def test_no_file_imports_itself_by_way_of_others():
    order = graphlib.TopologicalSorter(graph_of_imports())
    try:
        order.prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_a_class_name_has_one_meaning():
    homes = {}
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(NAMES[path])
    several = {name: places for name, places in homes.items() if len(places) > 1}
    assert several == {}


# Their docstrings are in the schema of a recorded request: other words would be another request.
ASKED = {"Collated", "EditReply"}


def test_no_docstring_is_a_riddle():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                if getattr(node, "name", "") in ASKED:
                    continue
                text = ast.get_docstring(node) or ""
                riddles = ("What ", "Whatever ", "Whoever ", "Nobody ")
                assert not text.startswith(riddles), f"{NAMES[path]}: {text.splitlines()[0]}"


def test_the_house_keeps_its_weight():
    lines = sum(len(path.read_text().splitlines()) for path in FILES)
    assert len(FILES) <= FILES_AT_MOST and lines <= LINES_AT_MOST, "find the room it belongs to"


def importers(package):
    return {
        NAMES[path]
        for path in FILES
        if any(name == package or name.startswith(f"{package}.") for name in imports_of(path))
    }


def test_only_git_imports_pygit2():
    assert importers("pygit2")
    assert {room_of(name) for name in importers("pygit2")} == {"git"}


def test_one_file_imports_anthropic():
    assert len(importers("anthropic")) <= 1
    assert {room_of(name) for name in importers("anthropic")} <= {"ai"}


def test_only_the_command_line_imports_typer_and_rich():
    for package in ("typer", "rich", "click"):
        assert {room_of(name) for name in importers(package)} <= {"cli"}


FORBIDDEN_IN_CORE = {
    *("pygit2", "autopilot.git", "subprocess", "socket", "urllib", "http", "ssl", "requests"),
    *("httpx", "shutil", "tempfile", "sqlite3", "anthropic", "pydantic"),
}


@pytest.mark.parametrize(
    "path", [p for p in FILES if room_of(NAMES[p]) == "core"], ids=lambda p: p.stem
)
def test_the_core_has_neither_git_nor_network_nor_disk(path):
    for name in imports_of(path):
        heads = {name, name.split(".")[0], ".".join(name.split(".")[:2])}
        assert not heads & FORBIDDEN_IN_CORE, f"{path.name} imports {name}"
        # A parameter is files.
        if path.stem != "parameter":
            assert name not in ("os", "pathlib", "pathlib.Path"), f"{path.name} imports {name}"
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    assert not calls & {"write_bytes", "unlink", "mkdir", "open_file", "rmdir"}, path.name
    if path.stem != "parameter":
        assert not calls & {"read_bytes", "write_text", "read_text"}, path.name


def run_python(code):
    environment = {**os.environ, "PYTHONPATH": str(HOME.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_autopilot_loads_nothing_heavy():
    loaded = run_python(
        "import autopilot, sys; dir(autopilot);"
        "print([n for n in ('pygit2', 'anthropic', 'litellm', 'genai_prices', 'typer', 'pydantic',"
        " 'rich', 'numpy', 'pytest')"
        " if n in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_the_core_loads_neither_git_nor_pydantic():
    loaded = run_python(
        "import autopilot.core.trainer, autopilot.data, autopilot.policy, sys;"
        "print([n for n in ('pygit2', 'anthropic', 'typer', 'pydantic') if n in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_every_public_noun_resolves():
    for name in autopilot.__all__:
        assert getattr(autopilot, name) is not None
    assert set(autopilot.__all__) <= set(dir(autopilot))
    with pytest.raises(AttributeError, match="has no attribute 'Modul'"):
        autopilot.Modul  # noqa: B018


CONTRACT = {
    "core.module": "Module AutoPilotModule",
    "core.trainer": "Trainer",
    "core.parameter": "Parameter PathParameter",
    "core.gradient": "Gradient TextGradient",
    "core.loss": "Loss",
    "core.optimizer": "Optimizer",
    "core.metric": "Metric MetricCollection",
    "core.types": "Datum Result GateResult",
    "core.graph": "Graph Node no_grad enable_grad",
    "core.callback": "Callback",
    "core.memory": "Memory",
    "core.store": "Store",
    "core.experiment": "Experiment",
    "policy": "Policy MinGate MaxGate RangeGate CustomGate QualityFirstPolicy",
    "data": "Dataset IterableDataset ListDataset StreamingDataset ConcatDataset DataLoader "
    "DataModule",
    "cli.main": "AutoPilotCLI",
    "ai.coding": "ClaudeCodeAgent",
    "ai.gradient": "ConcatCollator",
    "ai.loss": "JudgeLoss",
    "ai.optimizer": "AgentOptimizer",
    "ai.prices": "Price price_of",
    "ai.model.base": "ChatModel",
    "ai.model.litellm_model": "LiteLLMModel",
    "ai": "Agent Judge DataGenerator LLMStep PythonStep BackStep AgentCollator",
}


@pytest.mark.parametrize("home", CONTRACT)
def test_the_contracts_import_paths_work(home):
    for name in CONTRACT[home].split():
        module = importlib.import_module(f"autopilot.{home}")
        assert hasattr(module, name), f"autopilot.{home}.{name}"


def test_the_loop_is_short():
    assert len((HOME / "core" / "loop.py").read_text().splitlines()) < 200


@pytest.mark.parametrize("noun", ["gate", "loss", "metric", "optimizer"])
def test_a_plug_ins_contract_is_one_short_file(noun):
    assert len((HOME / "core" / f"{noun}.py").read_text().splitlines()) < 80


def test_files_are_short_and_say_what_they_are():
    faults = []
    for path, name in NAMES.items():
        text = path.read_text()
        lines = len(text.splitlines())
        if lines > (600 if name in LONG else 400):
            faults.append(f"{name} has {lines} lines")
        if text.strip() and not ast.get_docstring(tree_of(path)):
            faults.append(f"{name} has no docstring")
    assert faults == []


def test_everything_public_has_a_docstring():
    bare = []

    def look(body, prefix, *, inherits):
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or is_overload(node):
                continue
            # What overrides a method of a base says only what it adds.
            may_inherit = inherits and not isinstance(node, ast.ClassDef)
            if not ast.get_docstring(node) and not may_inherit:
                bare.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.", inherits=bool(node.bases))

    for path, name in NAMES.items():
        look(tree_of(path).body, f"{name}: ", inherits=False)
    # A contract's tests say by their names what they hold.
    assert [name for name in bare if ".test_" not in name] == []


def is_overload(node):
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(names & {"overload", "setter"})


def test_what_overrides_without_a_docstring_inherits_one():
    bare = []
    for path in FILES:
        if NAMES[path].endswith("__main__"):
            continue
        module = importlib.import_module(NAMES[path])
        for name, kind in vars(module).items():
            if not inspect.isclass(kind) or kind.__module__ != module.__name__ or name[0] == "_":
                continue
            for attribute, value in vars(kind).items():
                if attribute.startswith(("_", "test_")) or not callable(value):
                    continue
                if not inspect.isfunction(value) or inspect.getdoc(getattr(kind, attribute)):
                    continue
                bare.append(f"{module.__name__}.{name}.{attribute}")
    assert bare == []


def test_every_command_has_help_and_an_example():
    from typer.main import get_command

    from autopilot.cli.app import SECTIONS
    from autopilot.cli.main import AutoPilotCLI

    root = get_command(AutoPilotCLI().app())
    bare = []

    def look(command, path):
        children = getattr(command, "commands", {})
        text = (command.help or "").strip()
        called = f"autopilot {' '.join(path)}"
        shown = any(line.strip(" \b").startswith(called) for line in text.splitlines())
        if not text or not (children or shown):
            bare.append(" ".join(path))
        for name, child in children.items():
            look(child, [*path, name])
        for parameter in command.params:
            if parameter.param_type_name == "option" and not (parameter.help or "").strip():
                bare.append(f"{' '.join(path)} {parameter.opts[0]}")

    for entry in (entry for part in SECTIONS.values() for entry in part):
        command = root.get_command(None, entry.name)
        look(command, [entry.name])
        assert command.help.strip().splitlines()[0] == entry.help, entry.name
    assert bare == []


# Who reads something that is called success, and is not what an item came to.
OTHER_SUCCESS = {
    "autopilot.core.types": "the one reader of an item's success",
    "autopilot.core.scoring": "converts what user code gives; asks nothing of it",
    "autopilot.ai.judge": "of verdicts that a judge's steps give",
    "autopilot.ai.datasets.judging": "of verdicts that a judge gave",
    "autopilot.ai.loss": "of verdicts that a judge gave",
    "autopilot.command.reading": "of what a command printed",
}


def readings_of_success(tree):
    """The lines that read a success: as an attribute, or by its name from a mapping."""
    for node in ast.walk(tree):
        named = False
        if isinstance(node, ast.Attribute):
            named = node.attr == "success" and isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Subscript):
            named = is_success(node.slice) and isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            asked = called in ("get", "getattr", "pop", "setdefault", "attrgetter", "itemgetter")
            named = asked and any(map(is_success, node.args[:2]))
        elif isinstance(node, ast.Compare):
            named = is_success(node.left) and isinstance(node.ops[0], ast.In | ast.NotIn)
        if named:
            yield node.lineno


def is_success(node):
    return isinstance(node, ast.Constant) and node.value == "success"


def test_nothing_but_the_types_reads_an_items_success():
    readers = {name: list(readings_of_success(tree_of(path))) for path, name in NAMES.items()}
    found = {name: lines for name, lines in readers.items() if lines and name not in OTHER_SUCCESS}
    assert found == {}, "ask item.outcome"


def test_the_guard_of_success_finds_every_way_to_read_it():
    ways = [
        "x = item.success",
        "x = sum(i.success for i in items)",
        "x = row['success']",
        "x = row.get('success', True)",
        "x = getattr(item, 'success')",
        "x = 'success' in row",
    ]
    for way in ways:
        assert list(readings_of_success(ast.parse(way))) == [1], way
    for way in ("item.success = True", "Datum(success=True)", "row['success'] = None"):
        assert list(readings_of_success(ast.parse(way))) == [], way
