"""Looks at a repository for what can be measured and what may change, for `autopilot init`.

Nothing is run and nothing is changed. Few files are read, of many: it takes a second at most.
"""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

from autopilot.git.commands import run_git
from autopilot.projects.datasets import LabelledFile, labelled
from autopilot.text import some
from autopilot.tuning.parameter import numbers_in

_LARGEST = 256 << 10
"""Bytes of a file that is read."""
_MOST_READ = 150
"""Files of a kind that are read."""
_MEASURING = ("bench", "eval", "score", "measure", "perf", "main")
_INTERPRETERS = {".py": "python", ".sh": "sh", ".js": "node", ".mjs": "node", ".rb": "ruby"}
_PRINTING = re.compile(r"\b(print|echo|printf|console\.log|puts|main)\b")
_NOT_SOURCE = re.compile(
    r"(^|/)(_*tests?_*|docs?|examples?|bench\w*|scripts|tools|vendor|\.[^/]+)/"
)
_FOREIGN = re.compile(
    r"(^|/)(\.[^/]+|node_modules|site-packages|vendor|__pycache__|venv|env|[^/]+\.egg-info)/"
)
_NOT_SYSTEM = re.compile(
    r"(^|/)(test_\w+|\w+_test|[^/]+\.(test|spec)|conftest|setup|noxfile|optimize)\.\w+$"
)
_TESTS = ("test_*", "*_test.*", "*.test.*", "*.spec.*", "conftest.py")
_NO_SETTINGS = re.compile(
    r"(^|/)(package(-lock)?|tsconfig.*|composer|manifest|pyproject|Cargo|uv|poetry|setup|tox|pytest"
    r"|mypy|.*compose.*|mkdocs|\..*)\.(json|toml|ya?ml|ini|cfg)$"
)
_NO_PROMPT = re.compile(
    r"(readme|changes|changelog|history|license|licence|notice|contributing|authors|requirements"
    r"|code_of_conduct|security|todo|install)",
    re.IGNORECASE,
)
_NO_KNOB = re.compile(r"(^|[._])(version|port|year|seed|id|date)$", re.IGNORECASE)
_INSTRUCTION = re.compile(r"\b(you are|you will|your task|answer with|respond|reply)\b", re.I)


@dataclass(frozen=True, slots=True)
class Script:
    """A command of the repository.

    Args:
        command: As it is typed in the folder.
        why: The file, or the entry of a file, that it was found by.
    """

    command: str
    why: str


@dataclass(frozen=True, slots=True)
class Knob:
    """A number of a file that may be tuned.

    Args:
        key: The dotted key of a configuration file; the name of a constant.
    """

    file: str
    key: str
    value: int | float

    def spec(self) -> str:
        """File, key and a range around the present value, in the form of `--tune`."""
        value = abs(self.value)
        ends: tuple[float, float] = (0.0, 1.0)
        if isinstance(value, int):
            ends = (max(1, value // 4), value * 4) if value else (0, 10)
        elif value:
            # In the present value's decimals; a share stays one.
            ends = (value / 4, min(value * 4, 1.0) if value < 1 else value * 4)
            ends = (float(f"{ends[0]:.2g}"), float(f"{ends[1]:.2g}"))
        low, high = ends if self.value >= 0 else (-ends[1], -ends[0])
        log = ":log" if isinstance(value, int) and self.value >= 16 else ""
        return f"{self.file}:{self.key}={low}..{high}{log}"


@dataclass(frozen=True)
class Survey:
    """The files below a folder that git tracks, or would add, and what they offer.

    Args:
        files: Paths from the folder, with slashes; those that are tracked first.
        untracked: Those that git does not track yet.
    """

    folder: Path
    files: Sequence[str]
    untracked: frozenset[str]
    _texts: dict[str, str] = field(default_factory=dict, repr=False)

    def text(self, file: str) -> str:
        """A file's text; empty where it is large, binary or unreadable."""
        if file not in self._texts:
            self._texts[file] = ""
            with contextlib.suppress(OSError, UnicodeDecodeError):
                path = self.folder / file
                if path.is_file() and path.stat().st_size <= _LARGEST:
                    self._texts[file] = path.read_text(encoding="utf-8")
        return self._texts[file]

    def _named(self, *suffixes: str) -> Iterator[str]:
        return (file for file in self._own if file.endswith(suffixes))

    @cached_property
    def programs(self) -> list[Script]:
        """Commands that seem to print a number, the likeliest first."""
        found: list[tuple[tuple[int, int, str], Script]] = []
        scripts = self._named(*_INTERPRETERS)
        for file in islice((f for f in scripts if _measures(f)), _MOST_READ):
            path = PurePosixPath(file)
            if not _NOT_SYSTEM.search(file) and _PRINTING.search(self.text(file)):
                rank = next(i for i, n in enumerate(_MEASURING) if n in path.stem.lower())
                command = f"{_interpreter(_INTERPRETERS[path.suffix])} {shlex.quote(file)}"
                if f"{path.parent}/__init__.py" in self._set and path.suffix == ".py":
                    name = ".".join(path.with_suffix("").parts).removeprefix("src.")
                    command = f"{_interpreter('python')} -m {name}"
                found.append(((rank, len(path.parts), file), Script(command, file)))
        listed = [script for _, script in sorted(found, key=lambda each: each[0])]
        return [*listed, *self._targets(_MEASURING[:-1])]

    @cached_property
    def tests(self) -> list[Script]:
        """Commands that run a test suite."""
        found = []
        own = re.compile(r"(^|/)(test_[^/]*|[^/]*_test)\.py$")
        if file := next(filter(own.search, self._named(".py")), None):
            found.append(Script(f"{_interpreter('python')} -m pytest -q", file))
        found += self._targets(("test",))
        if "Cargo.toml" in self.files:
            found.append(Script("cargo test", "Cargo.toml"))
        if "go.mod" in self.files:
            found.append(Script("go test ./...", "go.mod"))
        return found

    def _targets(self, names: Sequence[str]) -> Iterator[Script]:
        """Entries of package.json and of the Makefile whose names begin so."""
        if "package.json" in self.files:
            with contextlib.suppress(ValueError, AttributeError, TypeError):
                for name in json.loads(self.text("package.json")).get("scripts", {}):
                    if name.startswith(tuple(names)):
                        yield Script(f"npm run --silent {name}", f"package.json: {name}")
        if "Makefile" in self.files:
            for name in re.findall(r"^([a-z][\w-]*):", self.text("Makefile"), re.MULTILINE):
                if name.startswith(tuple(names)):
                    yield Script(f"make -s {name}", f"Makefile: {name}")

    @cached_property
    def knobs(self) -> list[Knob]:
        """Numbers of configuration files, and constants of Python files, the likeliest first."""
        used = self.used_by(self.programs[0].why) if self.programs else []
        scripts = {program.why for program in self.programs}
        settings = list(self._named(".json", ".toml", ".ini", ".cfg", ".yaml", ".yml"))
        settings = [f for f in settings if not _NO_SETTINGS.search(f) and not _NOT_SOURCE.search(f)]
        named = [f for f in settings if any(PurePosixPath(f).name in self.text(s) for s in scripts)]
        sources = [f for f in self._named(".py") if _is_source(f) and f not in scripts]
        ranked = dict.fromkeys([*named, *used, *settings[:_MOST_READ], *sources[:_MOST_READ]])
        return [
            Knob(file, key, value)
            for file in ranked
            if file not in scripts
            for key, value in numbers_in(file, self.text(file)).items()
            # Of Python files the constants of the module: those of classes are mostly enums.
            if not (_NO_KNOB.search(key) or ("." in key and file.endswith(".py")))
        ]

    @property
    def best_knobs(self) -> list[Knob]:
        """The first numbers: at most four, all of one file."""
        return [knob for knob in self.knobs if knob.file == self.knobs[0].file][:4]

    def used_by(self, script: str) -> list[str]:
        """The Python files of the repository that a script imports."""
        found: dict[str, None] = {}
        for name in _imports(self.text(script)):
            path = name.replace(".", "/")
            beside = PurePosixPath(script).parent
            for place in (str(beside / path), path, f"src/{path}"):
                inside = [f"{place}.py", f"{place}/__init__.py"]
                own = [file for file in inside if file in self._set]
                if own and own[0].endswith("__init__.py"):
                    own = [f for f in self.files if f.startswith(f"{place}/") and f.endswith(".py")]
                found |= dict.fromkeys(file for file in own if not _NOT_SYSTEM.search(file))
        return list(found)

    def named_in(self, command: str) -> set[str]:
        """The files that a command names."""
        quoted = [first or second for first, second in re.findall(r"'(.+?)'|\"(.+?)\"", command)]
        scripts = (script.why for script in self.programs if script.command == command)
        return {*re.split(r"[\s:'\"=]+", command), *quoted, *scripts} & self._set

    def needed_by(self, command: str) -> set[str]:
        """The files that a command names, and those that these import or, untracked, name."""
        found = self.named_in(command)
        for script in tuple(found):
            text = self.text(script)
            found.update(self.used_by(script))
            found.update(f for f in self.untracked if PurePosixPath(f).name in text)
        return found

    @cached_property
    def _own(self) -> list[str]:
        """The files that belong to the project, and to no tool or package beside it."""
        return [file for file in self.files if not _FOREIGN.search(file)]

    @cached_property
    def _set(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def sources(self) -> list[str]:
        """Globs of the source code, as `--edit` takes them; at most three."""
        script = next((p.why for p in self.programs if p.why in self._set), "")
        used = self.used_by(script) if script else []
        texts = [
            f for f in (*self.prompts, *self.rules) if PurePosixPath(f).name in self.text(script)
        ]
        if texts:
            return texts[:3]
        if used:
            tops = Counter(PurePosixPath(file).parts[0] for file in used)
            top = tops.most_common(1)[0][0]
            if top.endswith(".py"):
                return [file for file in used if "/" not in file][:3]
            return [self._glob(next(f for f in used if PurePosixPath(f).parts[0] == top))]
        scripts = {program.why for program in self.programs}
        own = [f for f in self._own if _is_source(f) and f not in scripts]
        kinds = Counter(PurePosixPath(f).suffix for f in own if PurePosixPath(f).suffix in _CODE)
        if not kinds:
            return []
        suffix = kinds.most_common(1)[0][0]
        own = [file for file in own if file.endswith(suffix)]
        if below := Counter(PurePosixPath(f).parts[0] for f in own if "/" in f):
            top = below.most_common(1)[0][0]
            return [self._glob(next(f for f in own if f.startswith(f"{top}/")))]
        return own[:3]

    def _glob(self, file: str) -> str:
        """All files like this one in its top folder, but tests and the scripts that measure."""
        parts, suffix = PurePosixPath(file).parts, PurePosixPath(file).suffix
        top = "/".join(parts[:2]) if parts[0] == "src" and len(parts) > 2 else parts[0]
        below = [f for f in self._own if f.startswith(f"{top}/") and f.endswith(suffix)]
        scripts = {script.why for script in self.programs}
        tests = (re.match(r"(.*/)?_*tests?_*(?=/)", f) for f in below)
        without = dict.fromkeys([found[0] for found in tests if found])
        without |= dict.fromkeys(f for f in below if f in scripts)
        names = {PurePosixPath(f).name for f in below}
        without |= dict.fromkeys(
            f"{top}/**/{each}" for each in _TESTS if fnmatch.filter(names, each)
        )
        return ":!".join([f"{top}/**/*{suffix}", *without])

    @cached_property
    def prompts(self) -> list[str]:
        """Texts that seem to be instructions for a model, the likeliest first."""
        texts = self._named(".md", ".txt", ".prompt", ".j2", ".jinja")
        own = [f for f in texts if not _NO_PROMPT.search(PurePosixPath(f).name)]
        called = [file for file in own if "prompt" in file.lower()]
        rest = (f for f in own[:_MOST_READ] if f not in called and not _NOT_SOURCE.search(f))
        return [*called, *(file for file in rest if _INSTRUCTION.search(self.text(file)[:2000]))]

    @cached_property
    def rules(self) -> list[str]:
        """Files of rules, or of words, by their names."""
        named = re.compile(r"(rules?|words?|keywords?|lexicon|patterns?)[^/]*\.(txt|rules|list)$")
        return [file for file in self._own if named.search(file) and self.text(file)]

    @cached_property
    def data(self) -> list[LabelledFile]:
        """Data files whose rows have a text and a label; those with few classes first."""
        files = [f for f in self._named(".jsonl", ".csv", ".tsv") if not f.startswith(".")]
        found = filter(None, (labelled(self.folder, file) for file in files[:_MOST_READ]))
        return sorted(found, key=lambda each: (not each.classes, -each.rows, each.file))

    def facts(self) -> dict[str, list[str]]:
        """All findings by kind."""
        return {
            "prints a number": [program.command for program in self.programs],
            "tests": [program.command for program in self.tests],
            "numbers": [f"{k.file}:{k.key} = {k.value}" for k in self.knobs[:_MOST_READ]],
            "prompts": self.prompts,
            "rules": self.rules,
            "data": [f"{d.file} ({d.text} -> {d.label})" for d in self.data],
        }

    def lines(self) -> list[str]:
        """The findings for a person, a line for each kind."""
        found = ((name, some(own, joint=", and")) for name, own in self.facts().items())
        return [f"  {name + ':':<17}{own}" for name, own in found if own]


def survey(folder: Path) -> Survey:
    """Lists the files below a folder of a repository, but those that git ignores."""

    def listed(*options: str) -> list[str]:
        said = run_git(["ls-files", "-z", *options], cwd=folder).stdout
        names = said.decode("utf-8", "replace").split("\0")
        return sorted(filter(None, dict.fromkeys(names)), key=lambda name: (name.count("/"), name))

    others = listed("--others", "--exclude-standard")
    return Survey(folder, [*listed("--cached"), *others], frozenset(others))


_CODE = {".py", ".js", ".ts", ".go", ".rs", ".c", ".cc", ".cpp", ".java", ".rb", ".php", ".jl"}


def _measures(file: str) -> bool:
    stem = PurePosixPath(file).stem.lower()
    return any(name in stem for name in _MEASURING[:-1]) or stem == "main"


def _is_source(file: str) -> bool:
    return not (_NOT_SOURCE.search(file) or _NOT_SYSTEM.search(file))


def _interpreter(name: str) -> str:
    return "python3" if name == "python" and not shutil.which("python") else name


def _imports(text: str) -> Iterator[str]:
    with contextlib.suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
