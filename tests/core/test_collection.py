"""Metrics, their states and copies, and collections."""

import copy
import math
import os
import threading
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import pytest

from autopilot.core.collection import compute_all, find_metric, update_all
from autopilot.core.metric import Metric, MetricCollection
from autopilot.core.types import Datum
from autopilot.errors import MetricError


class Count(Metric):
    """Items seen, and their ids."""

    total: int
    ids: list[str]

    def __init__(self):
        super().__init__()
        self.add_state("total", 0)
        self.add_state("ids", [])

    def update(self, data):
        for item in data.leaves():
            self.total += 1
            self.ids.append(item.id)

    def compute(self):
        return float(self.total)


class Double(Count):
    def compute(self):
        return 2.0 * self.total


def batch(size):
    return Datum(items=[Datum(id=f"i{index}") for index in range(size)])


def test_update_gathers_and_reset_restores_the_defaults():
    count = Count()
    count.update(batch(3))
    count.update(batch(2))
    assert count.compute() == 5.0
    count.reset()
    assert (count.compute(), count.ids) == (0.0, [])


def test_reset_does_not_hand_out_the_default_itself():
    count = Count()
    count.update(batch(1))
    count.reset()
    count.ids.append("mine")
    count.reset()
    assert count.ids == []


def test_forward_is_the_value_of_this_batch_and_accumulates():
    count = Count()
    assert count(batch(3)) == 3.0
    assert count(batch(2)) == 2.0
    assert count.compute() == 5.0


def test_clone_keeps_the_state_and_is_independent():
    count = Count()
    count.update(batch(2))
    twin = count.clone()
    assert twin.compute() == 2.0
    twin.update(batch(1))
    assert (twin.compute(), count.compute()) == (3.0, 2.0)


def test_copies_share_no_state_and_no_default_however_deep():
    class Nested(Metric):
        def __init__(self):
            super().__init__()
            self.given = {"seen": [[]]}
            self.add_state("found", self.given)

    metric = Nested()
    metric.given["seen"][0].append("a change of what was declared")
    twin = metric.clone()
    later = twin.clone()
    for changed, others in ((metric, (twin, later)), (twin, (metric, later))):
        changed.reset()
        changed.found["seen"][0].append("mine")
        changed.found["more"] = 1
        for other in others:
            other.reset()
            assert other.found == {"seen": [[]]}
    twin.add_state("own", 0)
    metric.reset()
    assert not hasattr(metric, "own")
    both = MetricCollection({"one": metric})
    copy = both.clone()
    copy["one"].found["seen"].append("mine")
    assert both["one"].found == {"seen": [[]]}


@pytest.mark.parametrize("name", ["", "two words", "1st"])
def test_a_state_needs_an_attribute_name(name):
    with pytest.raises(MetricError, match="cannot be a state's name"):
        Count().add_state(name, 0)


def test_a_metric_without_methods_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="Metric defines no update"):
        Metric().update(batch(1))
    with pytest.raises(NotImplementedError, match="Metric defines no compute"):
        Metric().compute()


def test_plus_makes_a_collection():
    both = Count() + Double()
    both.update(batch(3))
    assert both.compute() == {"count": 3.0, "double": 6.0}
    three = both + MetricCollection({"again": Count()})
    assert [name for name, _ in three.items()] == ["count", "double", "again"]
    assert len(three) == 3


def test_collection_names_carry_prefix_and_postfix():
    metrics = MetricCollection([Count()], prefix="val_", postfix="_all")
    metrics.update(batch(2))
    assert metrics.compute() == {"val_count_all": 2.0}
    assert metrics["val_count_all"].compute() == 2.0
    twin = metrics.clone(prefix="test_")
    assert twin.compute() == {"test_count_all": 2.0}
    assert metrics.compute() == {"val_count_all": 2.0}


def test_a_collection_is_a_mapping():
    metrics = MetricCollection(Count(), Double(), prefix="val_")
    assert list(metrics) == list(metrics.keys()) == ["val_count", "val_double"]
    assert [type(metric) for metric in metrics.values()] == [Count, Double]
    assert "val_count" in metrics
    assert "count" not in metrics
    metrics.add_metrics({"again": Count()})
    metrics.add_metrics([])
    assert len(metrics) == 3
    with pytest.raises(MetricError, match="two metrics are named 'count'"):
        metrics.add_metrics(Count())
    with pytest.raises(MetricError, match="str is a str, not a Metric"):
        MetricCollection(["accuracy"])


def test_collection_forward_and_reset():
    metrics = MetricCollection([Count(), Double()])
    assert metrics(batch(2)) == {"count": 2.0, "double": 4.0}
    assert metrics(batch(1)) == {"count": 1.0, "double": 2.0}
    assert metrics.compute() == {"count": 3.0, "double": 6.0}
    metrics.reset()
    assert metrics.compute() == {"count": 0.0, "double": 0.0}


def test_two_metrics_of_a_name_are_refused():
    with pytest.raises(MetricError, match="two metrics are named 'count'"):
        Count() + Count()


# --- several values, and what they are called ----------------------------------------------------


class Rates(Count):
    """Several values at once."""

    higher_is_better = True

    def compute(self):
        return {"precision": Fraction(1, 2), "recall": self.total}


class Returns(Metric):
    """Computes what it is given."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def update(self, data):
        pass

    def compute(self):
        return self.value


def test_a_dict_is_flattened_under_the_name_of_the_metric():
    rates = Rates()
    rates.update(batch(3))
    assert compute_all({"acc": rates}) == {"acc_precision": 0.5, "acc_recall": 3.0}
    assert all(type(value) is float for value in compute_all({"acc": rates}).values())
    assert compute_all({"by_label": Returns({0: 0.5, 1: 1})}) == {
        "by_label_0": 0.5,
        "by_label_1": 1,
    }
    assert compute_all({"none": Returns({})}) == {}


def test_a_collection_puts_prefix_and_postfix_around_the_flattened_names():
    both = MetricCollection({"acc": Rates(), "n": Count()}, prefix="val_", postfix="_all")
    expected = {"val_acc_precision_all": 0.5, "val_acc_recall_all": 2.0, "val_n_all": 2.0}
    assert both(batch(2)) == expected
    assert both.compute() == compute_all({"whatever": both}) == expected


class Array:
    """As an array of several numbers."""

    def __float__(self):
        raise TypeError("only arrays of one element can be converted")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0.5", "acc: Returns.compute() returned the text '0.5', not a number"),
        (None, "acc: Returns.compute() returned None, not a number"),
        ([0.5], "acc: Returns.compute() returned a list, not a number"),
        (Array(), "acc: Returns.compute() returned a Array that is not one number: only arrays"),
        ({"f": None}, "acc: Returns.compute() returned None, not a number as 'f'"),
        ({"f": {"g": 1}}, "acc: Returns.compute() returned a dict, not a number as 'f'"),
        ({("a", 1): 0.5}, "acc: Returns.compute() returned a dict with the key ('a', 1)"),
    ],
)
def test_what_is_no_number_is_refused_with_the_name_of_the_metric(value, said):
    with pytest.raises(MetricError) as caught:
        compute_all({"acc": Returns(value)})
    assert caught.value.message.startswith(said)
    with pytest.raises(MetricError) as caught:
        MetricCollection({"acc": Returns(value)}).compute()
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize("number", [Decimal("0.5"), Fraction(1, 2), True, 1, 0.5, math.nan])
def test_what_converts_to_a_float_is_a_value(number):
    (value,) = compute_all({"acc": Returns(number)}).values()
    assert type(value) is float
    assert value == number or math.isnan(value)


@pytest.mark.parametrize(
    "metrics",
    [
        {"acc": Returns({"x": 1}), "acc_x": Returns(2)},
        {"acc": Returns({"1": 1, 1: 2})},
        {"acc": Returns(1), "all": MetricCollection({"acc": Returns(2)})},
        {"all": MetricCollection({"acc": Returns({"x": 1}), "acc_x": Returns(2)})},
    ],
)
def test_two_values_of_one_name_are_refused(metrics):
    with pytest.raises(MetricError, match="two metrics compute a value named 'acc"):
        compute_all(metrics)


class Broken(Metric):
    def update(self, data):
        raise KeyError("label")

    def compute(self):
        return 1 / 0


@pytest.mark.parametrize("inside", [False, True])
def test_what_a_metric_raises_is_given_its_name_and_place(inside):
    metrics = {"all": MetricCollection({"bad": Broken()})} if inside else {"bad": Broken()}
    with pytest.raises(MetricError, match=r"bad: Broken.update\(\) raised KeyError") as caught:
        update_all(metrics, batch(1))
    assert "test_collection.py:" in caught.value.hint
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(MetricError, match=r"bad: Broken.compute\(\) raised ZeroDivisionError"):
        compute_all(metrics)


def test_a_metric_is_found_by_the_full_name_of_its_value():
    acc, f1, macro = Rates(), Count(), Rates()
    inside = MetricCollection({"f1": f1, "f1_macro": macro}, prefix="val_", postfix="_all")
    metrics = {"acc": acc, "inside": inside}
    assert find_metric("acc", metrics) == (acc, "")
    assert find_metric("acc_recall", metrics) == (acc, "recall")
    assert find_metric("val_f1_all", metrics) == (f1, "")
    assert find_metric("val_f1_macro_all", metrics) == (macro, "")
    assert find_metric("val_f1_macro_recall_all", metrics) == (macro, "recall")
    # A metric of one number has no keys.
    for unknown in ("accuracy", "inside", "f1", "val_f1", "f1_all", "val_f1_recall_all"):
        assert find_metric(unknown, metrics) is None


def test_a_direction_is_stated_for_all_keys_or_by_key():
    assert Metric().direction() is None
    assert (Rates().direction("recall"), Rates().direction("precision")) == (True, True)

    class Mixed(Rates):
        higher_is_better = MappingProxyType({"recall": True, "loss": False})

    mixed = Mixed()
    assert [mixed.direction(key) for key in ("recall", "loss", "other", "")] == [
        True,
        False,
        None,
        None,
    ]
    mixed.higher_is_better = "max"
    with pytest.raises(MetricError, match=r"Mixed.higher_is_better is 'max', neither True"):
        mixed.direction()


# --- states and copies ---------------------------------------------------------------------------


class Gathered(Metric):
    def __init__(self):
        # Before super().__init__(), between, after: all are states.
        self.add_state("ids", list)
        super().__init__()
        self.add_state("labels", Counter)
        self.add_state("total", lambda: 0)
        self.add_state("seen", set())

    def update(self, data):
        for item in data.leaves():
            self.ids.append(item.id)
            self.labels[item.id] += 1
            self.total += 1
            self.seen.add(item.id)

    def compute(self):
        return self.total


def test_a_state_may_be_made_by_a_factory():
    metric = Gathered()
    assert (metric.ids, metric.labels, metric.total, metric.seen) == ([], Counter(), 0, set())
    metric.update(batch(2))
    twin = metric.clone()
    twin.update(batch(1))
    assert (metric.ids, metric.labels, metric.total) == (["i0", "i1"], Counter(i0=1, i1=1), 2)
    assert (twin.ids, twin.labels, twin.total) == (["i0", "i1", "i0"], Counter(i0=2, i1=1), 3)
    twin.reset()
    assert (twin.ids, twin.labels, twin.total, twin.seen) == ([], Counter(), 0, set())
    assert metric.seen == {"i0", "i1"}
    assert metric.forward(batch(3)) == 3
    assert metric.compute() == 5


HELD = {
    "lock": threading.Lock,
    "file": lambda: Path(os.devnull).open(),  # noqa: SIM115  # the test closes it
    "generator": lambda: (n for n in range(9)),
    "module": lambda: os,
}


@pytest.mark.parametrize("kind", HELD)
def test_a_metric_may_hold_what_cannot_be_copied(kind):
    class Holding(Gathered):
        def __init__(self):
            self.held = [HELD[kind]()]
            super().__init__()

    metric = Holding()
    twin = metric.clone()
    twin.reset()
    twin.update(batch(2))
    assert twin.held is metric.held
    assert (twin.compute(), metric.compute(), metric.forward(batch(1))) == (2, 0, 1)
    assert copy.deepcopy(metric).held is metric.held
    if kind == "file":
        metric.held[0].close()


def test_a_state_that_cannot_be_copied_is_refused_or_made_again():
    with pytest.raises(MetricError, match="Metric: 'lock' cannot be copied: cannot pickle") as no:
        Metric().add_state("lock", threading.Lock())
    assert "plain attribute" in no.value.hint
    with pytest.raises(MetricError, match="Metric: the state 'odd' cannot be made"):
        Metric().add_state("odd", lambda needed: needed)
    metric = Metric()
    metric.add_state("lock", threading.Lock)
    assert metric.clone().lock is not metric.lock


class Wrapper(Metric):
    """Metrics inside a metric, alone and in a list, beside what cannot be copied."""

    def __init__(self):
        super().__init__()
        self.inner = Count()
        self.several = [Count(), MetricCollection({"double": Double()}), threading.Lock()]
        self.by_name = {"again": self.inner, "lock": threading.Lock()}

    def update(self, data):
        self.inner.update(data)
        self.several[0].update(data)
        self.several[1].update(data)

    def compute(self):
        return {
            "inner": self.inner.compute(),
            "first": self.several[0].compute(),
            "again": self.by_name["again"].compute(),
            **self.several[1].compute(),
        }


def test_metrics_inside_a_metric_are_copied_and_reset_with_it():
    def values(n):
        return {"inner": n, "first": n, "again": n, "double": 2.0 * n}

    metric = Wrapper()
    metric.update(batch(2))
    twin = metric.clone()
    assert twin.by_name["again"] is twin.inner is not metric.inner
    assert twin.several[2] is metric.several[2]
    twin.update(batch(1))
    assert (metric.compute(), twin.compute()) == (values(2.0), values(3.0))
    assert metric.forward(batch(4)) == values(4.0)
    assert metric.compute() == values(6.0)
    twin.reset()
    assert (metric.compute(), twin.compute()) == (values(6.0), values(0.0))
