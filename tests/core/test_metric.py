"""The metric contract, collections, and what the loop measures unasked."""

import pytest

from autopilot.core.metric import ItemMean, Metric, MetricCollection
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


def test_item_mean_averages_over_the_items_that_have_the_number():
    mean = ItemMean()
    mean.update(Datum(items=[Datum(metrics={"f1": 0.5}, success=True), Datum(success=False)]))
    mean.update(Datum(metrics={"f1": 1.0}, success=True))
    assert mean.compute() == {"accuracy": pytest.approx(2 / 3), "f1": 0.75}


def test_item_mean_counts_an_error_as_not_succeeded():
    mean = ItemMean()
    mean.update(Datum(items=[Datum(error_message="timed out"), Datum(success=True)]))
    assert mean.compute() == {"accuracy": 0.5}
    assert mean.errors == ["timed out"]


def test_item_mean_weighs_a_batch_metric_by_its_items():
    mean = ItemMean()
    mean.update(Datum(items=[Datum(), Datum(), Datum()], metrics={"loss": 1.0}))
    mean.update(Datum(items=[Datum()], metrics={"loss": 5.0}))
    assert mean.compute() == {"loss": 2.0}


def test_item_mean_without_items_is_empty():
    assert ItemMean().compute() == {}
