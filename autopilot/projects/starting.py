"""The files that `autopilot init` writes: a class that `autopilot run` works on at once.

The rules, the prompt and the class come from templates beside those of a project; a run of a
command is written as `autopilot run --write` writes it.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import runpy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autopilot.command.task import edited_parameter
from autopilot.command.writing import agent_call, quoted
from autopilot.errors import UsageError
from autopilot.projects.datasets import LabelledFile, delimiter_of
from autopilot.projects.looking import Survey
from autopilot.projects.project import TEMPLATE, filled

KINDS = {
    "command": "an agent edits files, a command measures",
    "numbers": "a search sets numbers in files, a command measures; no model",
    "rules": "words that sort texts are learned from examples; no model",
    "prompt": "an agent edits a prompt, by which it answers questions",
    "class": "a small system of its own, to put yours in its place; no model",
}
THRESHOLD = "threshold.txt"
_SIGNS = (":", "=", ",", "\t")
_SAMPLE = LabelledFile("messages.jsonl", 120, "text", "label", ("fine", "spam"))


def fitting(seen: Survey, agent: str) -> dict[str, str]:
    """The kinds that fit a repository, the best first, with the reason.

    Args:
        agent: The agent that can be used here; "" for none.
    """
    found = {}
    program = next((script.command for script in (*seen.programs, *seen.tests)), "")
    if program and agent and seen.sources:
        found["command"] = f"{program}, and {agent} edits {', '.join(seen.sources)}"
    if seen.programs and seen.knobs:
        found["numbers"] = f"{program}, and {seen.knobs[0].key} of {seen.knobs[0].file}"
    if agent and seen.prompts and seen.data:
        found["prompt"] = f"{seen.prompts[0]} and {seen.data[0].file}"
    if data := next((each for each in seen.data if each.classes), None):
        found["rules"] = f"{data.file} has texts with {len(data.classes)} labels"
    if not found:
        found["class"] = "it needs nothing"
    if program and not agent:
        found["command"] = f"{program}, but no agent is here"
    return found


def edited_files(seen: Survey, globs: Sequence[str]) -> set[str]:
    """The files of some globs, as `--edit` takes them.

    Raises:
        UsageError: one has no file that git tracks, or would add.
    """
    found = set()
    with contextlib.chdir(seen.folder):
        for parameter in map(edited_parameter, globs):
            below = os.path.relpath(parameter.root)
            names = {os.path.normpath(f"{below}/{name}") for name in parameter.files()}
            if not (own := names & set(seen.files)):
                raise UsageError(
                    f"{parameter.label}/{parameter.pattern}: git tracks no such file",
                    hint="name others, such as 'src/**/*.py'",
                )
            found |= own
    return found


def rules_for(seen: Survey, data: LabelledFile | None) -> str | None:
    """A file with rules for the labels of some data; None if there is none."""
    for name in seen.rules if data else ():
        with contextlib.suppress(UsageError):
            _sign_of(seen.folder / name, data.classes if data else ())
            return name
    return None


def rules_texts(
    file: str, folder: Path, data: LabelledFile | None, rules: str | None
) -> dict[str, str]:
    """The files of a sorter of texts by rules; data and rules are made where there are none.

    Args:
        data: Texts with labels; None: a sample is made.
        rules: The file that may change; None: a new one.

    Raises:
        UsageError: the rules have no form that is known.
    """
    made = {}
    if data is None:
        data = _SAMPLE
        made[_free(folder, data.file)] = _sample()
    sign = ":"
    if rules is None:
        rules = _free(folder, "rules.txt", "words.txt")
        made[rules] = "# Each line is a label, a colon, and words that speak for it\n"
    else:
        sign = _sign_of(folder / rules, data.classes)
    names = {"SIGN": sign.replace("\t", "\\t")}
    names |= _common(file, folder, rules, data, "import re", "from collections import Counter")
    return {file: filled("start/rules.py", names), **made}


def prompt_texts(
    file: str, folder: Path, data: LabelledFile, prompt: str, agent: str
) -> dict[str, str]:
    """The file of a prompt that an agent improves, which also answers the items by it."""
    place = re.compile(r"\{+ *(" + "|".join(map(re.escape, (data.text, "input"))) + r") *\}+")
    found = place.search((folder / prompt).read_text(encoding="utf-8"))
    question = 'f"{self.prompt.read_text()}\\n\\n{text}"'
    if found:
        question = f"self.prompt.read_text().replace({quoted(found[0])}, text)"
    kind, arguments = agent_call(agent)
    names = {"QUESTION": question, "AGENT": f"ap.{kind}({', '.join(arguments)})"}
    names |= _common(file, folder, prompt, data)
    return {file: filled("start/prompt.py", names)}


def class_texts(file: str, folder: Path) -> dict[str, str]:
    """The files of the smallest complete class."""
    place, names = folder / THRESHOLD, {"FILE": file, "EDIT_CODE": quoted(THRESHOLD)}
    texts = {file: filled("start/class.py", names)}
    if not place.exists():
        texts[THRESHOLD] = "10\n"
    elif not place.read_text(encoding="utf-8").strip().isdigit():
        raise UsageError(f"{THRESHOLD} is there already, and no number", hint="move it away")
    return texts


def _common(
    file: str, folder: Path, edit: str, data: LabelledFile, *imports: str
) -> dict[str, str]:
    load = f"ap.ListDataset.from_jsonl({quoted(data.file)})"
    lines = [*imports]
    if not data.file.endswith(".jsonl"):
        sign = delimiter_of(folder / data.file)
        columns = "" if sign == "," else f", delimiter={quoted(sign)}"
        is_marked = (folder / data.file).read_bytes().startswith(codecs.BOM_UTF8)
        coding = 'encoding="utf-8-sig"' if is_marked else ""
        table = f"Path({quoted(data.file)}).open({coding})"
        load = f"ap.ListDataset(csv.DictReader({table}{columns}))"
        lines += ["import csv", "from pathlib import Path"]
    lines.sort(key=lambda line: (line.startswith("from"), line))
    return {
        "FILE": file,
        "EDIT": edit,
        "EDIT_CODE": quoted(edit),
        "DATA": data.file,
        "LOAD": load,
        "TEXT": quoted(data.text),
        "LABEL": quoted(data.label),
        "IMPORTS": "\n".join([*lines, "", ""]) if lines else "",
    }


def _sample() -> str:
    """Messages with labels, made by the generator of a new project."""
    message: Any = runpy.run_path(str(TEMPLATE / "project/ai/generator.py.txt"))["message"]
    states = [{"slot": 2 * n, "label": label} for n in range(60) for label in _SAMPLE.classes]
    items = [message(state) for state in states]
    return "".join(f"{json.dumps(item)}\n" for item in items)


def _sign_of(path: Path, labels: Iterable[str]) -> str:
    """The sign between label and words in a file of rules."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    known = set(labels)
    for sign in _SIGNS:
        heads = [line.split(sign, 1)[0].strip() for line in lines if sign in line]
        if not lines or len([head for head in heads if head in known]) > len(lines) / 2:
            return sign
    raise UsageError(
        f"{path.name}: {lines[0][:40]!r} is no rule like `{next(iter(known), 'label')}: word`",
        hint="leave --edit out, for a new file of that form; or use --kind class",
    )


def _free(folder: Path, *names: str) -> str:
    """The first of some names that no file of the folder has.

    Raises:
        UsageError: all are taken.
    """
    for name in names:
        if not (folder / name).exists():
            return name
    raise UsageError(f"{names[-1]} is there already", hint="name it with --edit or --data")
