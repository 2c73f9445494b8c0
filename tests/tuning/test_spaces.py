import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.errors import UsageError
from autopilot.tuning.spaces import Choice, Range, holds, key_parts, parse_tune

WRITTEN = {
    "config.toml:cache.size=16..4096:log": ("config.toml", "cache.size", Range(16, 4096, log=True)),
    "pkg/score.py:B_INCR=0.1..0.6": ("pkg/score.py", "B_INCR", Range(0.1, 0.6)),
    "flags.json:opt=O0|O1|O2": ("flags.json", "opt", Choice(["O0", "O1", "O2"])),
    "a b/größe=2.ini:x.y=-5..5:step=2": ("a b/größe=2.ini", "x.y", Range(-5, 5, step=2)),
    'c.toml:paths."a.b=c".0=1e-5..1e-1:log': (
        "c.toml",
        'paths."a.b=c".0',
        Range(1e-5, 1e-1, log=True),
    ),
    "x.py:N=-1e-3..-1e-5": ("x.py", "N", Range(-1e-3, -1e-5)),
    "x.py:N=0..1:float": ("x.py", "N", Range(0.0, 1.0)),
    "x.py:N=1.0..4.0:int": ("x.py", "N", Range(1, 4)),
    "x.py:N=0..1:step=0.25": ("x.py", "N", Range(0.0, 1.0, step=0.25)),
    "x.toml:size=1..9:if cache.kind=lru": (
        "x.toml",
        "size",
        Range(1, 9, when={"cache.kind": "lru"}),
    ),
    "x.toml:size=1..9:log:if kind=lru|lfu:if on=true": (
        "x.toml",
        "size",
        Range(1, 9, log=True, when={"on": True, "kind": ["lru", "lfu"]}),
    ),
    "f.json:k='1'|\"2\"|3|true": ("f.json", "k", Choice(["1", "2", 3, True])),
    "f.json:url=http://a|don't": ("f.json", "url", Choice(["http://a", "don't"])),
    "f.json:k=1|2:float": ("f.json", "k", Choice([1.0, 2.0])),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_tune_option_is_a_file_a_key_and_a_space(text):
    read, wanted = parse_tune(text), WRITTEN[text]
    assert repr(read) == repr(wanted)  # 1 equals 1.0, but these are different spaces


WRONG = {
    "config.toml": "not FILE:KEY=VALUES",
    "config.toml:size": "not FILE:KEY=VALUES",
    ":size=1..2": "not FILE:KEY=VALUES",
    "f:k=5..2": "5..2 is empty",
    "f:k=1..2:stp=1": "':stp=1' after '1..2' is no modifier",
    "f:k=1..": "neither a range nor a choice",
    "f:k=lru": "neither a range nor a choice",
    "f:k=1|2:log": "neither a range nor a choice",
    "f:k=1|1.0": "all different",
    "f:k=a|b:float": "more than numbers",
    "f:k=0..8:log": "begins at 0",
    "f:k=1..8:log:step=2": "has a step",
    "f:k=1..8:step=9": "has a step of 9",
    "f:k=1..8:step=x": "'x' is no number",
    "f:k=0.5..8:int": "no whole numbers",
    "f:k=1..8:if kind": "'if kind' is no condition",
    "f:k='a|b": "no quote at its end",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_malformed_tune_option_says_what_is_wrong_with_it(text):
    with pytest.raises(UsageError) as error:
        parse_tune(text)
    assert WRONG[text] in error.value.message and error.value.hint
    assert "\n" not in error.value.message and repr(text) in error.value.message


@pytest.mark.parametrize(
    "build",
    [
        lambda: Range(1, float("inf")),
        lambda: Range("1", 2),
        lambda: Range(1, 9, step=0.5),
        lambda: Choice(["a"]),
        lambda: Choice([True, 1]),
        lambda: Choice([None, "a"]),
        lambda: key_parts("a..b"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(build):
    with pytest.raises(UsageError):
        build()


def test_a_range_knows_its_values():
    steps = Range(0.1, 0.65, step=0.1)
    assert steps.points() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] and steps.last == 0.6
    assert all(map(steps.contains, steps.points()))
    assert not any(map(steps.contains, [0.25, 0.65, "0.2", True, None]))
    assert Range(1, 4).points() == [1, 2, 3, 4] and not Range(1, 4).contains(2.0)
    assert Range(0.5, 4).contains(2)
    with pytest.raises(UsageError, match="has no step"):
        Range(0.1, 0.2).points()
    assert not Choice([1, 2]).contains(True)


def test_a_condition_holds_for_one_value_or_any_of_several():
    space = Range(1, 9, when={"kind": ["lru", "lfu"], "on": True})
    assert holds(space, {"kind": "lfu", "on": True})
    assert not holds(space, {"kind": "none", "on": True})
    assert not holds(space, {"kind": "lru", "on": 1}) and not holds(space, {"kind": "lru"})


NUMBERS = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
OPTIONS = st.text(min_size=1) | NUMBERS | st.booleans()


@given(st.lists(OPTIONS, min_size=2, max_size=4, unique=True))
def test_every_choice_is_read_as_it_is_written(options):
    assert repr(parse_tune(f"f:k={Choice(options)}")[2]) == repr(Choice(options))


@given(NUMBERS, NUMBERS)
def test_every_range_is_read_as_it_is_written(one, other):
    if one != other:
        space = Range(min(one, other), max(one, other))
        assert parse_tune(f"f:k={space}")[2] == space
