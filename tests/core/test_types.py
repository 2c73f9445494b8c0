"""Datums, their JSON, ids, canonical text, costs."""

import json
import math
from collections import OrderedDict
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.types import (
    Cost,
    Datum,
    as_datum,
    canonical,
    datum_from_json,
    datum_to_json,
    digest,
    unlike_json,
)
from autopilot.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
LEAVES = st.builds(
    Datum,
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    metadata=st.dictionaries(st.text(), JSON),
    success=st.booleans(),
    error_message=st.none() | st.text(),
    feedback=st.none() | st.text(),
    id=st.text(min_size=1),
)


@given(st.builds(Datum, items=st.lists(LEAVES), metrics=st.just({"f1": 0.5}), id=st.just("b")))
def test_a_result_comes_back_from_json(datum):
    text = json.dumps(datum_to_json(datum))
    back = datum_from_json(json.loads(text), split="", epoch=0)
    assert back == datum
    assert not unlike_json(datum_to_json(datum), "")


class Sub(str):
    """Comes back as a plain text."""


@pytest.mark.parametrize(
    ("value", "odd"),
    [
        ({"a": (1, 2)}, "x['a'] is a tuple"),
        ({1: "a"}, "x has the key 1, a int"),
        ({"a": {2.0: 3}}, "x['a'] has the key 2.0, a float"),
        ([{"ok": 1}, {"x": [{1, 2}]}], "x[1]['x'][0] is a set"),
        (object(), "x is a object"),
        ({"a": OrderedDict()}, "x['a'] is a OrderedDict"),
        ([Sub("a")], "x[0] is a Sub"),
        ({"n": Fraction(1, 2)}, "x['n'] is a Fraction"),
        ({Sub("a"): 1}, "x has the key 'a', a Sub"),
        (b"", "x is a bytes"),
    ],
)
def test_what_json_changes_is_named_with_its_path(value, odd):
    assert unlike_json(value, "x") == odd


def test_what_holds_itself_is_named_too():
    value: list[object] = []
    value.append(value)
    assert unlike_json(value, "x") == "x is nested too deeply"


@given(JSON)
def test_what_is_json_comes_back(value):
    assert not unlike_json(value, "")
    assert json.loads(json.dumps(value)) == value


def test_what_json_cannot_carry_is_named():
    with pytest.raises(DataError, match="the result of item i7 cannot be recorded"):
        datum_to_json(Datum(items=[Datum(id="i7", metadata={"x": object()})]))


def test_items_are_leaves():
    single, batch = Datum(), Datum(items=[Datum(), Datum()])
    assert list(single.leaves()) == [single]
    assert list(batch.leaves()) == batch.items
    assert (len(single), len(batch), bool(Datum())) == (1, 2, True)


def test_ids_stay_when_the_data_is_sorted():
    one = [as_datum(item, n).id for n, item in enumerate([{"q": "a"}, {"q": "b"}])]
    two = [as_datum(item, n).id for n, item in enumerate([{"q": "b"}, {"q": "a"}])]
    assert one == two[::-1]
    assert as_datum({"id": 7, "q": "a"}, 0).id == "7"
    assert as_datum("text", 0).metadata == {"value": "text"}
    datum = Datum()
    assert as_datum(datum, 0) is datum


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len(digest("x", 40)) == 40
    assert digest({1: "a", "b": 2}) == digest({1: "a", "b": 2})


@given(JSON, JSON)
def test_canonical_text_tells_values_apart(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical(one) == canonical(other)) == same


def test_canonical_text_of_none_numbers():
    assert canonical(math.nan) == canonical(math.nan)
    assert canonical((1, 2)) != canonical([1, 2])


def test_costs_add_up():
    total = sum([Cost(1, 2, 0.5, 1.0), Cost(tokens=3)], Cost())
    assert total == Cost(1, 5, 0.5, 1.0)
