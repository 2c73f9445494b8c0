"""Names: which slugs there are, and that every ref of them is one that git takes."""

from pathlib import Path

import pygit2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autopilot.errors import SlugError
from autopilot.git.commands import run_git
from autopilot.tracking import Layout, experiments, free_slugs
from autopilot.tracking.layout import KINDS, leftovers

GOOD = ["a", "fix-1", "v1.2", "a_b", "0", "project/run-3", "a" * 240]
BAD = [
    *("", "A", "-a", ".a", "_a", "a b", "a/b/c", "/a", "a/", "a//b", "a..b", "a.", "a.lock"),
    *(
        "ä",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "a[",
        "a\\b",
        "a@{0}",
        "a\n",
        "a\0",
        "x/.y",
        "..",
        "x/..",
    ),
]


@pytest.mark.parametrize("slug", GOOD)
def test_slugs(slug):
    layout = Layout(slug)
    assert layout.branch == f"refs/heads/autopilot/{slug}"
    assert layout.tag_name(3) == f"autopilot/{slug}/epoch-0003"
    assert layout.notes("metrics") == f"refs/notes/autopilot/{slug}/metrics"
    assert layout.revert.review == f"refs/heads/autopilot-review/{slug}-revert"


@pytest.mark.parametrize("slug", BAD)
def test_what_is_no_slug(slug):
    with pytest.raises(SlugError, match="cannot be an experiment's name") as caught:
        Layout(slug)
    assert "classifier-1" in caught.value.hint


@given(st.text("ab.-_@{/~lock0Ä", max_size=12) | st.text(max_size=12))
@example("a.lock")
@example("a\n")
def test_every_name_that_is_taken_is_one_for_git(slug):
    try:
        layout = Layout(slug)
    except SlugError:
        return
    names = [layout.branch, f"refs/tags/{layout.tag_name(0)}", *map(layout.notes, KINDS)]
    for name in names:
        assert pygit2.reference_is_valid_name(name)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.text(max_size=15))
@example("a..b")
@example("a.lock")
@example("__main__")
@example("...")
@example("Ümlaut Ñame")
def test_any_file_name_gives_a_slug(repository, stem):
    slug = next(free_slugs(repository, stem))
    assert Layout(slug).slug == slug
    assert slug.endswith("-1")


def test_free_slugs_pass_over_what_is_there(repository):
    top = Path(repository.workdir)
    for ref in ("heads/autopilot/run-1", "tags/autopilot/run-3/epoch-0000"):
        run_git(["update-ref", f"refs/{ref}", "HEAD"], cwd=top)
    run_git(["update-ref", "refs/notes/autopilot/run-4/experiment", "HEAD"], cwd=top)
    free = free_slugs(repository, "run")
    assert [next(free) for _ in range(3)] == ["run-2", "run-4", "run-5"]
    assert next(free_slugs(repository, "run", "shop")) == "shop/run-1"
    assert list(experiments(repository)) == [], "no run made that branch"
    assert leftovers(repository, Layout("run-3")) == ["refs/tags/autopilot/run-3/epoch-0000"]
    assert leftovers(repository, Layout("run-4")) == []
