"""Pass rate, accuracy, precision, recall and F-beta, against scikit-learn."""

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopilot.core import metrics as catalogue
from autopilot.core.metric import Metric
from autopilot.core.metrics import (
    Accuracy,
    FBeta,
    Latency,
    Max,
    Mean,
    Min,
    PassRate,
    Precision,
    Quantile,
    Recall,
    Sum,
)
from autopilot.core.types import Datum, datum_from_json, datum_to_json
from autopilot.errors import MetricError

unhurried = settings(deadline=None)  # a loaded machine is no failure

LABELS = ("ham", "spam", "eggs")
pairs_of_labels = st.lists(
    st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40
)


def item(prediction, target, **more):
    return Datum(metadata={"prediction": prediction, "target": target}, **more)


def failed(**metadata):
    return Datum(metadata=metadata, error_message="timed out")


PASSED, FAILED, UNSCORED = Datum(success=True), Datum(success=False), Datum()
UNMEASURED = Datum(success=True, unmeasured="no answer", metadata={"prediction": 1, "target": 2})


def value(metric, items):
    metric.update(Datum(items=list(items)))
    return metric.compute()


def test_pass_rate_is_the_share_that_succeeded():
    assert value(PassRate(), [PASSED, FAILED, PASSED, PASSED]) == 0.75


def test_pass_rate_counts_an_error_and_neither_unmeasured_nor_unscored_items():
    assert value(PassRate(), [PASSED, failed(), UNMEASURED, UNSCORED]) == 0.5
    assert math.isnan(value(PassRate(), [UNMEASURED, UNSCORED]))


def test_accuracy_without_arguments_is_the_pass_rate():
    items = [Datum(success=False, metadata={"prediction": 1, "target": 1}), PASSED, UNSCORED]
    assert value(Accuracy(), items) == 0.5


@pytest.mark.parametrize(
    "accuracy",
    [Accuracy("prediction", "target"), Accuracy("prediction"), Accuracy(target="target")],
)
def test_accuracy_with_a_key_compares_and_names_the_other(accuracy):
    items = [item("a", "a", success=False), item("b", "a"), item([1], [1]), failed(target="a")]
    assert value(accuracy, items) == 0.5


def test_a_failed_item_is_wrong_even_where_prediction_and_target_agree():
    good, crashed = item("a", "a"), item("a", "a", error_message="died while closing")
    assert value(Accuracy("prediction"), [good, crashed]) == 0.5
    assert value(Recall(positive="a"), [good, crashed]) == 0.5


def metrics_of_keys(positive):
    return [Accuracy("prediction")] + [
        kind(positive=positive, average=average)
        for kind in (Precision, Recall, FBeta)
        for average in ("binary", "macro", "micro")
    ]


BY_KEYS = metrics_of_keys("a")


@pytest.mark.parametrize("metric", BY_KEYS)
def test_metrics_of_keys_leave_out_what_was_not_measured_and_nothing_else(metric):
    items = [item("a", "a"), item("b", "a", success=True), item("a", "b"), failed(target="a")]
    there = value(metric.clone(), items)
    assert 0 < there < 1
    assert value(metric.clone(), [*items, UNMEASURED, Datum(unmeasured="down")]) == there
    assert [metric.has_value(one) for one in (*items[:3], UNMEASURED)] == [True] * 3 + [False]
    # Without its prediction, a label of a mean over labels loses a false alarm, or is gone.
    counts = getattr(metric, "average", "") != "macro"
    assert [metric.has_value(one) for one in (items[3], failed())] == [counts] * 2


def test_what_has_a_value_for_success():
    items = (PASSED, FAILED, failed(), UNMEASURED, UNSCORED)
    for metric in (PassRate(), Accuracy()):
        assert [metric.has_value(one) for one in items] == [True, True, True, False, False]


@pytest.mark.parametrize("metric", [PassRate(), Accuracy(), *BY_KEYS])
def test_items_that_come_back_from_json_have_the_same_value(metric):
    items = [
        item(("a", 1), ("a", 1), success=True),
        item("a", "b", success=False),
        item("b", "b", success=True),
        failed(target=("a", 1)),
        UNMEASURED,
    ]
    read = [
        datum_from_json(json.loads(json.dumps(datum_to_json(one))), split="val", epoch=0)
        for one in items
    ]
    assert value(metric.clone(), read) == value(metric.clone(), items)
    assert list(map(metric.has_value, read)) == list(map(metric.has_value, items))


@settings(unhurried, max_examples=60)
@given(data=st.data())
def test_a_metric_never_improves_when_an_item_that_passed_raises_instead(data):
    labels = st.sampled_from(LABELS)
    right = st.builds(
        lambda label, x: item(label, label, success=True, metrics={"x": x}), labels, st.floats(0, 9)
    )
    wrong = st.builds(
        lambda p, t, x: item(p, t, success=False, metrics={"x": x}), labels, labels, st.floats(0, 9)
    )
    left_out = st.sampled_from([UNMEASURED, failed(), failed(target="spam")])
    # Whether an item passed is the module's to say: its label may be wrong.
    called_right = st.builds(
        lambda p, t: item(p, t, success=True, metrics={"x": 1.0}), labels, labels
    )
    first = data.draw(st.one_of(right, called_right))
    others = data.draw(st.lists(st.one_of(right, wrong, left_out), max_size=12))
    raised = data.draw(st.sampled_from([failed(), failed(target=first.metadata["target"])]))
    before, after = [first, *others], [raised, *others]
    metrics = [PassRate(), Accuracy(), *metrics_of_keys("spam")]
    for better in (True, False):
        worst = 0.0 if better else 9.0
        for failed_value in (None, worst):
            options = {"failed": failed_value, "higher_is_better": better}
            metrics += [kind("x", **options) for kind in (Mean, Sum, Min, Max)]
            metrics += [Quantile("x", q, **options) for q in (0.1, 0.5, 0.9)]
        metrics.append(Latency("x", failed=9.0))
    for metric in metrics:
        if metric.has_value(first) and not metric.has_value(raised):
            continue  # Such an epoch is not better, whatever the value.
        was, now = value(metric.clone(), before), value(metric.clone(), after)
        assert now <= was if metric.higher_is_better else now >= was


@pytest.mark.parametrize("metric", [Accuracy("prediction"), Precision(), Recall(), FBeta()])
def test_a_missing_key_names_item_and_key(metric):
    with pytest.raises(MetricError, match=r"item q7 has no 'target' in its metadata") as caught:
        metric.update(Datum(items=[Datum(id="q7", metadata={"prediction": 1, "answer": 1})]))
    assert caught.value.hint.startswith("there is prediction, answer;")


def test_a_label_has_to_be_hashable():
    with pytest.raises(MetricError, match="has a dict as 'prediction', which is no label"):
        Recall().update(item({"a": 1}, "a"))


@pytest.mark.parametrize(
    "metric",
    [PassRate(), Accuracy(), Precision(), Recall(average="macro"), FBeta(average="micro")],
)
def test_nothing_to_compute_is_nan(metric):
    assert math.isnan(metric.compute())


def test_wrong_arguments_are_refused():
    with pytest.raises(MetricError, match="no average 'weighted'"):
        Precision(average="weighted")
    with pytest.raises(MetricError, match="beta of 0 is not above 0"):
        FBeta(0)


def test_binary_takes_a_failure_as_the_other_side():
    items = [item("spam", "spam"), failed(target="spam"), failed(target="ham")]
    assert value(Precision(positive="spam"), items) == 0.5
    assert value(Recall(positive="spam"), items) == 0.5
    assert value(FBeta(positive="spam"), items) == 0.5


def test_binary_takes_a_failure_without_target_as_miss_and_false_alarm():
    items = [item("spam", "spam"), failed()]
    assert value(Precision(positive="spam"), items) == 0.5
    assert value(Recall(positive="spam"), items) == 0.5


def test_micro_counts_a_failure_once_whatever_is_known_of_it():
    items = [item("a", "a"), item("b", "b"), failed(target="a"), failed()]
    for metric in (Precision(average="micro"), Recall(average="micro"), FBeta(average="micro")):
        assert value(metric, items) == 0.5


def test_macro_takes_a_failure_as_a_miss():
    items = [item("a", "a"), item("b", "b"), failed(target="a")]
    assert value(Recall(average="macro"), items) == 0.75
    assert value(Precision(average="macro"), items) == 1.0
    assert value(Recall(average="macro"), [item("a", "a"), item("b", "b"), failed()]) == 0.5
    assert value(Recall(average="macro"), [failed()]) == 0.0


def test_a_label_that_never_comes_up_scores_zero():
    assert value(Precision(positive="eggs"), [item("a", "a")]) == 0.0
    assert value(FBeta(positive="eggs"), [item("a", "a")]) == 0.0


@pytest.mark.parametrize("average", ["binary", "macro", "micro"])
@unhurried
@given(pairs=pairs_of_labels, beta=st.sampled_from([0.5, 1.0, 2.0]))
def test_they_agree_with_scikit_learn(average, pairs, beta):
    reference = pytest.importorskip("sklearn.metrics")
    predicted, expected = zip(*pairs, strict=True)
    choice = {"positive": "spam", "average": average}
    theirs = {"zero_division": 0.0, "average": average}
    if average == "binary":
        # One label of three: scikit-learn calls binary what is not multiclass.
        predicted, expected = ([x == "spam" for x in side] for side in (predicted, expected))
        choice["positive"] = True
    items = [item(p, t) for p, t in zip(predicted, expected, strict=True)]
    assert value(Accuracy("prediction"), items) == pytest.approx(
        reference.accuracy_score(expected, predicted)
    )
    assert value(Precision(**choice), items) == pytest.approx(
        reference.precision_score(expected, predicted, **theirs)
    )
    assert value(Recall(**choice), items) == pytest.approx(
        reference.recall_score(expected, predicted, **theirs)
    )
    assert value(FBeta(beta, **choice), items) == pytest.approx(
        reference.fbeta_score(expected, predicted, beta=beta, **theirs)
    )


@unhurried
@given(pairs=pairs_of_labels)
def test_binary_looks_at_one_label_of_many(pairs):
    found = sum(p == t == "spam" for p, t in pairs)
    there = sum(t == "spam" for _, t in pairs)
    expected = Fraction(found, there) if there else 0
    assert value(Recall(positive="spam"), [item(*pair) for pair in pairs]) == float(expected)


items_of_all_kinds = st.lists(
    st.one_of(
        st.builds(item, st.sampled_from(LABELS), st.sampled_from(LABELS), success=st.booleans()),
        st.builds(lambda target: failed(target=target), st.sampled_from(LABELS)),
        st.builds(failed),
    ),
    min_size=1,
    max_size=30,
)


@unhurried
@given(items=items_of_all_kinds, data=st.data())
def test_batches_and_order_never_change_the_value(items, data):
    shuffled = data.draw(st.permutations(items))
    cut = data.draw(st.integers(0, len(items)))
    kinds = [Precision, Recall, FBeta]
    made = [PassRate, Accuracy, lambda: Accuracy("prediction")] + [
        lambda kind=kind, average=average: kind(positive="spam", average=average)
        for kind in kinds
        for average in ("binary", "macro", "micro")
    ]
    for make in made:
        parts = make()
        for part in (shuffled[:cut], shuffled[cut:]):
            if part:
                parts.update(Datum(items=part))
        assert parts.compute() == value(make(), items)


def test_the_catalogue_lists_every_metric():
    classes = {
        name
        for name, thing in vars(catalogue).items()
        if isinstance(thing, type) and issubclass(thing, Metric) and not name.startswith("_")
    }
    assert set(catalogue.__all__) == classes - {"Metric"}


def test_a_metric_without_arguments_refuses_them():
    class Count(Metric):
        def update(self, data):
            """Counts nothing."""

        def compute(self):
            return 0.0

    with pytest.raises(TypeError):
        Count("latency")
    with pytest.raises(TypeError):
        Count(treshold=0.5)
