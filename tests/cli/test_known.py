"""Results that another experiment of the repository measured with the same content."""

from __future__ import annotations

from typing import Any


def traces(place, slug: str) -> dict[tuple[int, str, int], dict[str, Any]]:
    """Epoch, split and measurement to the record of its results."""
    found = place.notes(slug, "traces")
    return {(r["epoch"], r["split"], r.get("repeat", 0)): r for r in found}


def known(place, slug: str) -> dict[tuple[int, str, int], tuple[str, int]]:
    """Those passes of which results were known: from where, and how many."""
    found = traces(place, slug)
    return {key: (r["source"], r["known"]) for key, r in found.items() if r.get("known")}


def facts(place, slug: str) -> list[Any]:
    """Trees, verdicts, metrics and results of an experiment: all but what it cost."""
    judged = [(r["epoch"], r["verdict"], r["metrics"]) for r in place.judged(slug)]
    results = {key: r["items"] for key, r in traces(place, slug).items()}
    return [place.trees(slug), judged, results]


def test_equal_states_are_measured_once_in_a_repository(place):
    place.run("run", "counter.py", "-e", "first", "--max-epochs", "2")
    dry = place.run("run", "counter.py", "--dry-run")
    assert "first, epoch 0 has results of this state: equal items count (or --no-cache)" in dry.out

    warm = place.run("run", "counter.py", "-e", "warm", "--max-epochs", "3")
    cold = place.run("run", "counter.py", "-e", "cold", "--max-epochs", "3", "--no-cache")
    assert facts(place, "warm") == facts(place, "cold")
    # The second measurement of the baseline tells how noisy it is: it is never taken over. Nor is
    # the state of epoch 3, which the first experiment did not come to, and its test split.
    assert known(place, "warm") == {
        (0, "val", 0): ("first@0", 5),
        (1, "val", 0): ("first@1", 5),
        (2, "val", 0): ("first@2", 5),
        (0, "test", 0): ("first@0", 5),
    }
    assert known(place, "cold") == {}
    costs = [record["cost"] for record in place.judged("warm")]
    assert [each["evaluations"] for each in costs] == [5, 5, 5, 10]
    assert [each.get("known", 0) for each in costs] == [5, 5, 5, 0]
    assert "5 of 5 val items known from first, epoch 1" in place.run("show", "1", "-e", "warm").out
    assert "known from" in warm.out and "known from" not in cold.out
    # All is in its own records: nothing of the first experiment is asked for any more.
    place.run("experiment", "delete", "first", "--yes")
    place.run("replay", "warm", "--level", "full")


def test_the_key_is_all_that_a_result_depends_on(place):
    place.run("run", "counter.py", "-e", "first", "--max-epochs", "1")

    def knows(slug: str, *options: str) -> bool:
        place.run("run", "counter.py", "-e", slug, "--max-epochs", "1", *options)
        return (0, "val", 0) in known(place, slug)

    assert not knows("sized", "-H", "size=3")
    # A change that is not committed is another state, whatever git's index says of the file.
    place.write("x.txt", "3\n")
    assert not knows("dirty", "--include-dirty")
    assert place.judged("dirty")[0]["metrics"] != place.judged("first")[0]["metrics"]
    place.write("x.txt", "1\n")
    assert knows("equal", "--include-dirty", "--seed", "7")
    # Another commit is another key, whatever file it changed.
    place.write("more.txt", "x\n")
    place.commit()
    assert not knows("later")
