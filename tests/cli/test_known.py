"""Results that another experiment of the repository measured with the same content."""

from __future__ import annotations

from typing import Any


def traces(place, slug: str) -> dict[tuple[int, str, int], dict[str, Any]]:
    """Epoch, split and measurement to the record of its results."""
    found = place.notes(slug, "traces")
    return {(r["epoch"], r["split"], r.get("repeat", 0)): r for r in found}


def known(place, slug: str) -> dict[tuple[int, str, int], tuple[str, int]]:
    """Those passes of which results were known: from where, and how many."""
    found = sorted(traces(place, slug).items())
    return {key: (r["source"], r["known"]) for key, r in found if r.get("known")}


def facts(place, slug: str) -> list[Any]:
    """Trees, verdicts, metrics and results of an experiment: all but what it cost."""
    judged = [(r["epoch"], r["verdict"], r["metrics"]) for r in place.judged(slug)]
    results = {key: r["items"] for key, r in traces(place, slug).items()}
    return [place.trees(slug), judged, results]


def test_equal_states_are_measured_once_in_a_repository(place):
    place.run("run", "counter.py", "-e", "first", "--max-epochs", "2")
    dry = place.run("run", "counter.py", "--dry-run")
    assert (
        "first, epoch 0 measured this state: equal items keep its results (or --no-cache)"
        in dry.out
    )
    dry = place.run("run", "counter.py", "--dry-run", "--cache", "--in-place")
    assert "--cache has no effect with --in-place" in dry.out

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
    assert "5 of 5 val items known from first, epoch 0" in warm.out and "known: 15 res" in warm.out
    # An agent is told the same, whoever measured.
    lessons = [[r["reason"] for r in place.notes(slug, "memory")] for slug in ("warm", "cold")]
    assert lessons[0] == lessons[1]
    assert "known" not in cold.out
    # All is in its own records: nothing of the first experiment is asked for any more.
    place.run("experiment", "delete", "first", "--yes")
    place.run("replay", "warm", "--level", "full")


def test_the_key_is_all_that_a_result_depends_on(place):
    place.run("run", "counter.py", "-e", "first", "--max-epochs", "1")

    def knows(slug: str, *options: str) -> bool:
        place.run("run", "counter.py", "-e", slug, "--max-epochs", "1", *options)
        return (0, "val", 0) in known(place, slug)

    assert not knows("sized", "-H", "size=2")
    assert not knows("scored", "--failed-value", "0")
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


def test_a_noisy_result_is_never_taken_over(place):
    seconds = "metrics={'seconds': __import__('time').time()},"
    place.change("counter.py", ("success=passed,", f"success=passed, {seconds}"))
    first = place.run("run", "counter.py", "-e", "first", "--max-epochs", "1")
    assert "two measurements agree" in first.out  # in what is monitored
    second = place.run("run", "counter.py", "-e", "second", "--max-epochs", "1")
    assert known(place, "second") == {} and "measured anew" not in second.out


def test_chance_and_the_environment_are_part_of_the_key(place):
    reads = "__import__('os').environ.get('LEVEL'), __import__('random').random()"
    place.change(
        "counter.py", ("def score(self, item):", f"def score(self, item):\n        {reads}")
    )
    for slug, seed, level in (("a", "0", ""), ("b", "0", ""), ("c", "1", ""), ("d", "0", "7")):
        environment = {"LEVEL": level} if level else {}
        place.run(
            "run", "counter.py", "-e", slug, "--max-epochs", "1", "--seed", seed, **environment
        )
    assert [len(known(place, slug)) for slug in "abcd"] == [0, 4, 0, 0]
    # Where nothing checks what is known, nothing is.
    place.run("run", "counter.py", "-e", "e", "--max-epochs", "1", "--no-measure-noise")
    place.run("run", "counter.py", "-e", "f", "--max-epochs", "1", "--budget-evaluations", "14")
    assert known(place, "e") == known(place, "f") == {}


def test_what_items_measured_in_processes_of_their_own_is_known_too(place):
    place.run("run", "counter.py", "-e", "first", "--max-epochs", "2", "--jobs", "2")
    for slug, jobs in (("second", ("--jobs", "2")), ("third", ())):
        place.run("run", "counter.py", "-e", slug, "--max-epochs", "2", *jobs)
        assert {(n, "val", 0) for n in range(3)} <= known(place, slug).keys()
        assert facts(place, slug) == facts(place, "first")
    # Chance is each item's own there.
    head = "def score(self, item):"
    place.change("counter.py", (head, f"{head}\n        __import__('random').random()"))
    for slug, *given in (
        ("drawn", "--jobs", "2"),
        ("alike", "--jobs", "3"),
        ("seeded", "--jobs", "2", "--seed", "1"),
        ("plain",),
    ):
        place.run("run", "counter.py", "-e", slug, "--max-epochs", "1", *given)
    assert (0, "val", 0) in known(place, "alike") and not known(place, "plain")
    assert not known(place, "seeded")


def test_a_file_that_is_read_once_is_that_of_the_first_state(place):
    place.change(
        "counter.py",
        ("int(self.x.read_text()) >", "int(self.text) >"),
        (
            "        self.size = size",
            "        self.size = size\n        self.text = self.x.read_text()",
        ),
    )
    for slug in ("first", "second"):
        place.run("run", "counter.py", "-e", slug, "--max-epochs", "1")
    assert [*known(place, "second")] == [(0, "test", 0), (0, "val", 0)]


def test_a_second_measurement_that_is_another_ends_what_is_known(place):
    """Nothing tells that a file elsewhere was looked at; the measurement of noise does."""
    beside = place.top.parent / "beside.txt"
    beside.write_text("1")
    size = f"__import__('os').stat({str(beside)!r}).st_size"
    place.change("counter.py", ("int(self.x.read_text()) >", f"int(self.x.read_text()) + {size} >"))
    place.run("run", "counter.py", "-e", "first", "--max-epochs", "2")
    beside.write_text("123")
    done = place.run("run", "counter.py", "-e", "other", "--max-epochs", "1")
    assert "5 val items were known, but no second measurement says so: measured anew" in done.out
    assert known(place, "other") == {}
    assert [r["metrics"]["accuracy"] for r in place.judged("other")] == [0.6, 0.8]
    assert "known" not in place.judged("other")[0]["cost"]
    # Nor does a resumed run believe what it has seen to be wrong.
    place.run("resume", "other", "--max-epochs", "2")
    assert known(place, "other") == {}


def test_what_programs_read_is_not_known_unless_the_user_says_so(place):
    place.write("bench.sh", "echo METRIC size=$(wc -c < x.txt)\n")
    place.commit()
    rules = ("--edit", "x.txt", "--agent", "cmd:echo 22 > x.txt", "--eval", "sh bench.sh")
    rules += ("--metric", "size", "--mode", "max")
    place.run("run", *rules, "-e", "first", "--max-epochs", "1")
    done = place.run("run", *rules, "-e", "second", "--max-epochs", "1")
    assert "of programs, and what those read is not known: it is measured anew (--cache" in done.out
    assert known(place, "second") == {}
    place.run("run", *rules, "-e", "third", "--max-epochs", "1", "--cache")
    assert (0, "val", 0) in known(place, "third")
    # A metric beside items, too.
    two = '[{"id": "a", "success": true}, {"id": "b", "success": false, "feedback": "more"}]'
    place.write("bench.sh", f"echo '{{\"size\": '$(wc -c < x.txt)', \"items\": {two}}}'\n")
    place.commit()
    place.run("run", *rules, "-e", "fourth", "--max-epochs", "1")
    place.run("run", *rules, "-e", "fifth", "--max-epochs", "1", "--cache")
    assert {(0, "val", 0), (1, "val", 0)} <= known(place, "fifth").keys()
    scores = [place.call("log", name, "--json").document["log"] for name in ("fourth", "fifth")]
    first, second = ([row["metrics"] for row in log] for log in scores)
    assert first == second != []
    place.run("replay", "fifth")


def test_candidates_know_what_others_measured_and_links_count_by_content(place):
    """One set-up for both: the data that is scored comes in by --link."""
    place.write("data/items.txt", "3\n")
    place.write(".gitignore", "data\n")
    place.change(
        "counter.py",
        ("int(x.read_text()) + 1", "int(x.read_text()) + self.proposal[0]"),
        ('item.metadata["at"]', "item.metadata[\"at\"] - int(open('data/items.txt').read()) + 3"),
    )
    search = ("run", "counter.py", "--proposals", "2", "--max-epochs", "2", "--link", "data")
    place.run(*search, "-e", "first")
    place.run(*search, "-e", "warm", "--seed", "5")
    place.run(*search, "-e", "cold", "--seed", "5", "--no-cache")
    assert facts(place, "warm") == facts(place, "cold")
    # Those beside the best candidate of an epoch are known, too.
    expected = [(0, "test"), (0, "val"), (1, "val"), (2, "test"), (2, "val")]
    assert [key[:2] for key in known(place, "warm")] == expected
    costs = [r["cost"] for r in place.judged("warm") if "revisions" in r or not r["epoch"]]
    assert [(each["evaluations"], each["known"]) for each in costs] == [(5, 5), (5, 10), (5, 10)]
    # A file that nothing has read yet may be read now.
    place.write("data/more.txt", "x\n")
    place.run(*search, "-e", "more")
    assert known(place, "more") == {}


def test_what_was_fetched_is_not_believed_unless_the_user_says_so(place, tmp_path):
    place.run("run", "counter.py", "-e", "first", "--max-epochs", "1")
    place.git("clone", "--quiet", str(place.top), str(tmp_path / "clone"))
    clone = type(place)(tmp_path / "clone", place.cache)
    clone.run("fetch")
    for slug, options in (("second", ()), ("third", ("--cache",))):
        clone.run("run", "counter.py", "-e", slug, "--max-epochs", "1", *options)
    assert known(clone, "second") == {}
    assert known(clone, "third")[0, "val", 0][1] == 5
