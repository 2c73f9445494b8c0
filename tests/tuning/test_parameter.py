import configparser
import json
import os
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopilot import Choice, ConfigParameter, Range
from autopilot.errors import AutopilotError, UsageError
from autopilot.tuning.parameter import config_parameters


@pytest.fixture(autouse=True)
def folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("repo"))


def written(name, text):
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


# --- the bytes of a file -------------------------------------------------------------------------


def python_of(text):
    names = {}
    exec(compile(text, "settings.py", "exec"), names)
    return names["TABLE"]["size"]


def ini_of(text):
    parser = configparser.RawConfigParser(inline_comment_prefixes=("#",))
    parser.read_string(text)
    return parser["cache"]["size"]


# Name to what stands before and behind the literal, and another reader of the key.
FILES = {
    "settings.json": (
        '{"größe": "{\\"x", "list": [{}, [1, 2]],\n\t"cache" :{"size":',
        ', "n": null}, "size": 1}\n',
        lambda text: json.loads(text)["cache"]["size"],
    ),
    "settings.toml": (
        '# größe\nsize = 1\n"a.b".c = {d = [1,\n2]}\n[cache]\n\ts = """\n[x]\nsize = 2"""\nsize = ',
        "\t# in entries\nother = 'y'\n[[p]]\nsize = 1\n",
        lambda text: tomllib.loads(text)["cache"]["size"],
    ),
    "settings.yaml": (
        '# größe\nsize: 1\nl: [1, {a: "}"}]\ncache: # here\n    t: |\n      size: 3\n    size: ',
        "  # in entries\n    other: y\nlast:\n- size\n",
        lambda text: yaml.safe_load(text)["cache"]["size"],
    ),
    "settings.ini": (
        "; größe\n[other]\nsize = 1\n[cache]\n  other : x\nsize=",
        "   # in entries\nlast = 1\n",
        ini_of,
    ),
    "settings.py": (
        '"""Größe."""\nsize = 1\nTABLE: dict = {"ü": (1, 2), "größe": 1, "size": ',
        ", 'last': [f'{size}']}  # TABLE = {}\n\n\ndef size_of():\n    size = 3\n    return size\n",
        python_of,
    ),
}
KEYS = dict.fromkeys(FILES, "cache.size") | {"settings.py": "TABLE.size"}
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(NUMBERS | TEXTS | st.booleans(), min_size=2, max_size=2, unique=True),
    has_mark=st.booleans(),
    is_dos=st.booleans(),
    is_cut=st.booleans(),
)
@pytest.mark.parametrize("name", FILES)
def test_only_the_literal_is_replaced(name, values, has_mark, is_dos, is_cut):
    before, after, read = FILES[name]
    old, new = values
    if name == "settings.ini":
        # Such a file has no types and no escapes: it is words and numbers.
        assume(all(not isinstance(v, str) or v.isidentifier() for v in values))
        literal = str(old).lower() if isinstance(old, bool) else str(old)
    elif name == "settings.py":
        literal = repr(old)
    else:
        assume(not isinstance(old, str) or old.isprintable())
        literal = json.dumps(old, ensure_ascii=False)
    if is_cut:
        after = after.rstrip("\n")
    if is_dos:
        before, after = before.replace("\n", "\r\n"), after.replace("\n", "\r\n")
    if has_mark:
        before = "\ufeff" + before
    written(name, before + literal + after)
    is_pair = all(isinstance(v, float) for v in values)
    space = Range(min(values), max(values)) if is_pair else Choice(values)
    config = ConfigParameter(name, {KEYS[name]: space})
    assert config.values() == {KEYS[name]: old} and type(config.values()[KEYS[name]]) is type(old)
    config.set({KEYS[name]: new})
    found = Path(name).read_bytes().decode()
    assert found.startswith(before) and found.endswith(after)
    assert type(config.values()[KEYS[name]]) is type(new) and config.values()[KEYS[name]] == new
    again = read(found.removeprefix("\ufeff"))
    assert again == (found[len(before) : len(found) - len(after)] if "ini" in name else new)
    config.set({KEYS[name]: old})
    assert config.values() == {KEYS[name]: old}


PYTHON = "a = 'y\\'s'\nb = \"y's\"\nc = False\n"
ENV = "export A='y'\nB=y\nC=off\n"


def test_a_literal_keeps_its_quotes_and_its_spelling():
    changes = {
        "a.toml": ("a = 'x'\nb = \"x\"\n", {"a": "y", "b": "y"}, "a = 'y'\nb = \"y\"\n"),
        "a.yaml": (
            "a: x\nb: 'x'\nc: \"x\"\nd: x\ne: True\n",
            {"a": "a b", "b": "y", "c": "y", "d": "no", "e": False},
            'a: a b\nb: \'y\'\nc: "y"\nd: "no"\ne: False\n',
        ),
        "a.py": ("a = 'x'\nb = \"x\"\nc = True\n", {"a": "y's", "b": "y's", "c": False}, PYTHON),
        ".env": ("export A='x'\nB=x\nC=on\n", {"A": "y", "B": "y", "C": False}, ENV),
    }
    for name, (before, values, after) in changes.items():
        olds = {key: "x" if isinstance(new, str) else True for key, new in values.items()}
        spaces = {key: Choice([olds[key], new]) for key, new in values.items()}
        config = ConfigParameter(written(name, before), spaces)
        assert config.values() == olds
        config.set(values)
        assert config.read_text() == after and config.values() == values


def test_the_places_of_python_are_names_classes_dicts_and_lists():
    text = "class Search:\n    K1: float = -1.2\n    names = ['ü', 'b']\nif True:\n    A = 1_000\n"
    spaces = {
        "Search.K1": Range(-2.0, 2.0),
        "Search.names.1": Choice(["b", "c"]),
        "A": Range(1, 9999),
    }
    config = ConfigParameter(written("k.py", text), spaces)
    assert config.values() == {"Search.K1": -1.2, "Search.names.1": "b", "A": 1000}
    config.set({"Search.K1": 1e-7, "Search.names.1": "c", "A": 7})
    changed = text.replace("-1.2", "1.0e-07").replace("'b'", "'c'").replace("1_000", "7")
    assert config.read_text() == changed and config.values()["Search.K1"] == 1e-7


def test_an_item_of_an_array_of_tables_is_its_index():
    text = "[[step]]\nk = 1\n[step.sub]\nw = 2\n[[step]]\nk = 3\n[step.sub]\nw = 4\n"
    spaces = {"step.1.k": Range(1, 9), "step.0.sub.w": Range(1, 9)}
    config = ConfigParameter(written("a.toml", text), spaces)
    assert config.values() == {"step.1.k": 3, "step.0.sub.w": 2}
    config.set({"step.1.k": 8})
    assert config.read_text() == text.replace("k = 3", "k = 8")


def test_an_agent_sees_the_keys_with_their_spaces_and_the_file():
    config = ConfigParameter(written("a.toml", "n = 3 # x\n"), {"n": Range(1, 9)})
    assert config.render() == "n = 3  (1..9)\n=== a.toml\nn = 3 # x\n"
    config.write_text("n = = 3")
    assert config.values() == {}  # broken by an agent: that is the evaluation's to say


# --- what is refused -----------------------------------------------------------------------------

A_TOML = "[cache]\nsize = 8\nsizes = [1, 2]\nkind = 'lru'\nday = 2001-01-01\n"
WRONG = {
    ("no.toml", None, "size=1..9"): ("no.toml is neither a file nor a folder", "create it"),
    ("a.toml", A_TOML, "cache.siez=1..9"): ("a.toml has no key cache.siez", "mean cache.size"),
    ("a.toml", A_TOML, "size=1..9"): ("a.toml has no key size", "did you mean cache.size"),
    ("a.toml", A_TOML, "cache=1..9"): ("cache is no value: it has keys", "one of them: cache.size"),
    ("a.toml", A_TOML, "other=1..9"): ("no key other", "its keys: cache.size, cache.sizes.0"),
    ("a.toml", A_TOML, "cache.size=16..99"): (
        "a.toml:2: cache.size is 8, outside of 16..99",
        "starts from the present value",
    ),
    ("a.toml", A_TOML, "cache.size=1..9:step=2"): ("a.toml:2: cache.size is 8", "another step"),
    ("a.toml", A_TOML, "cache.kind=1..9"): ("is 'lru', and 1..9 is a range of numbers", "a|b|c"),
    ("a.toml", A_TOML, "cache.kind=a|b"): ("a.toml:4: cache.kind is 'lru', none of a|b", ""),
    ("a.toml", A_TOML, "cache.day=1..9"): ("a.toml:5: cache.day is a date", "write a literal"),
    ("a.toml", "a = \n", "a=1..9"): ("a.toml:1 is no TOML: Invalid value", "correct the file"),
    ("a.toml", "[[a]]\nb=1\n[c]\n[[a]]\nb=2\n", "a.1.b=1..9"): (
        "the tables of one array are not one behind the other",
        "correct the file",
    ),
    ("a.toml", b"a = '\xff'\n", "a=1..9"): ("a.toml is not UTF-8", "store it as UTF-8"),
    ("a.json", '{"a": 1,}', "a=1..9"): ("a.json:1 is no JSON", "correct"),
    ("a.json", '{"a": 1,\n"a": 2}', "a=1..9"): ("a is defined 2 times (lines 1, 2)", "leave one"),
    ("a.json", '{"a": null}', "a=1..9"): ("a.json:1: a is null", "write a literal"),
    ("a.json", '{"a": 0.5}', "a=0..1"): ("a is 0.5, and 0..1 has whole numbers only", ":float"),
    ("a.yml", "a: [1\n", "a=1..9"): ("is no YAML", "correct"),
    ("a.yml", "a: &x 1\nb: *x\n", "b=1..9"): ("b is an alias of another value", "write a literal"),
    ("a.yml", "a: 010\n", "a=1..99"): ("a is '010', and 1..99 is a range of numbers", "a|b|c"),
    ("a.toml", '[a."b.c=d"]\ne=1\n', "e=1..9"): ("no key e", 'did you mean a."b.c=d".e'),
    ("a.yml", "a: |\n  x\n", "a=x|y"): ("a is a block of text", "write a literal"),
    ("a.yml", "a: 1\na: 2\n", "a=1..9"): ("a is defined 2 times (lines 1, 2)", "leave one"),
    ("a.ini", "[x]\nn=1\nn=2\n", "x.n=1..9"): ("x.n is defined 2 times (lines 2, 3)", "leave one"),
    ("a.ini", "[x]\nn=big\n", "x.n=1..9"): ("a.ini:2: x.n is 'big'", "name the values"),
    ("a.ini", "n=a\n", "n=a|'b # c'"): ("n cannot be 'b # c'", "another value"),
    ("a.py", "B = 2 * 3\n", "B=1..9"): (
        "a.py:1: B is computed",
        "write a literal there, such as 1",
    ),
    ("a.py", "B = 2\nif B:\n  B = 3\n", "B=1..9"): ("B is defined 2 times (lines 1, 3)", "leave"),
    ("a.py", "B = 2\nB += 3\n", "B=1..9"): ("B is defined 2 times (lines 1, 2)", "leave one"),
    ("a.py", "B = C = 2\n", "B=1..9"): ("B is bound to several names at once", "write a literal"),
    ("a.py", "B_INC = 2\n", "B_INCR=1..9"): ("has no key B_INCR", "did you mean B_INC"),
    ("a.py", "B = (1\n", "B=1..9"): ("a.py:1 is no Python", "correct the file"),
    ("a.txt", "B = 1\n", "B=1..9"): ("files of the kind .txt cannot be tuned", ".json .toml"),
    ("a.toml", A_TOML, "cache.size=1..9:if cache.kind=lru"): ("depends on cache.kind", "tune it"),
}


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0]}:{case[2]}")
def test_what_cannot_be_tuned_is_one_line_before_anything_runs(case):
    name, text, key = case
    if text is not None:
        written(name, text)
    with pytest.raises(AutopilotError) as error:
        config_parameters([f"{name}:{key}"])
    message, hint = WRONG[case]
    assert message in error.value.message and hint in error.value.hint
    assert name in error.value.message
    assert "\n" not in error.value.message and error.value.hint and "\n" not in error.value.hint
    assert text is None or Path(name).read_bytes() == (
        text if isinstance(text, bytes) else text.encode()
    )


def test_several_tune_options_of_one_file_are_one_parameter():
    written("a.toml", A_TOML)
    written("b.json", '{"n": 1}')
    tunes = ["a.toml:cache.size=1..9", "b.json:n=1..9", "./a.toml:cache.kind=lru|lfu"]
    first, second = config_parameters(tunes)
    assert first.values() == {"cache.size": 8, "cache.kind": "lru"} and second.values() == {"n": 1}
    with pytest.raises(UsageError, match=r"two --tune name a.toml:'cache'.size"):
        config_parameters(["a.toml:cache.size=1..9", "a.toml:'cache'.size=2..8"])


def test_conditions_come_in_any_order_but_not_in_a_circle():
    written("a.json", '{"a": 1, "b": "x", "c": true}')
    spaces = {
        "a": Range(1, 9, when={"b": "x"}),
        "b": Choice(["x", "y"], when={"c": True}),
        "c": Choice([True, False]),
    }
    config = ConfigParameter("a.json", spaces)
    assert list(config.spaces) == ["c", "b", "a"]
    config.set({"c": False})
    assert config.values() == {"c": False} and config.present() == {"a": 1, "b": "x", "c": False}
    spaces["c"] = Choice([True, False], when={"a": 1})
    with pytest.raises(AutopilotError, match="a, b, c depend on one another"):
        ConfigParameter("a.json", spaces)
    spaces["c"] = Choice([True, False], when={"b": ["x", "z"]})
    with pytest.raises(AutopilotError, match=r"c depends on b being 'z', which is none of x\|y"):
        ConfigParameter("a.json", spaces)


def test_a_link_or_a_folder_is_no_file_to_tune():
    written("a.json", '{"a": 1}')
    os.symlink("a.json", "b.json")
    Path("c.json").mkdir()
    with pytest.raises(AutopilotError) as error:
        ConfigParameter("b.json", {"a": Range(1, 9)})
    assert "b.json is a symbolic link" in error.value.message and "a.json" in error.value.hint
    with pytest.raises(AutopilotError, match=r"c.json is a folder"):
        ConfigParameter("c.json", {"a": Range(1, 9)})


def test_constants_that_are_bound_side_by_side_are_changed_one_by_one():
    config = ConfigParameter(
        written("bm25.py", "K1, (B, C) = 1.5, (0.75, f())  # Okapi\n"),
        {"K1": Range(0.5, 3.0), "B": Range(0.0, 1.0)},
    )
    config.set({"B": 0.5, "K1": 2.0})
    assert config.read_text() == "K1, (B, C) = 2.0, (0.5, f())  # Okapi\n"


def test_a_value_outside_of_its_space_is_never_written():
    config = ConfigParameter(written("a.json", '{"a": 1}'), {"a": Range(1, 9)})
    for values, message in (({"a": 10}, "outside of 1..9"), ({"b": 1}, "b is not tuned")):
        with pytest.raises(AutopilotError, match=message):
            config.set(values)
    assert config.read_text() == '{"a": 1}'


@pytest.mark.parametrize(
    ("library", "name", "text"),
    [("ruamel.yaml", "a.yml", "a: 1\n"), ("tomlkit", "a.toml", "a = 1\n")],
)
def test_a_file_without_its_reader_says_what_to_install(monkeypatch, library, name, text):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(AutopilotError) as error:
        ConfigParameter(written(name, text), {"a": Range(1, 9)})
    assert f"{library} is not installed" in error.value.message
    assert error.value.hint == "pip install 'autopilot[optuna]'"
    # The other formats need no more than Python.
    config = ConfigParameter(written("a.json", '{"a": 1}'), {"a": Range(1, 9)})
    assert config.values() == {"a": 1}
