"""Gradients: values that add up, and text that stays readable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.gradient import Finding, Gradient, TextGradient

FINDINGS = st.builds(
    Finding,
    direction=st.sampled_from(["shorter", "longer", "polite"]),
    attribution=st.sampled_from(["", "prompt.md", "rules"]),
    severity=st.floats(0, 1),
    evidence=st.lists(st.sampled_from([f"t{n}" for n in range(30)]), max_size=4).map(tuple),
)


def test_five_hundred_observations_stay_readable():
    evidence = [f"ticket {n}: rambled" for n in range(500)]
    text = TextGradient("answer in one word", "prompt.md", 0.5, evidence).render()
    assert text.splitlines() == [
        "prompt.md: answer in one word (severity 0.50)",
        "  - ticket 0: rambled",
        "  - ticket 100: rambled",
        "  - ticket 200: rambled",
        "  - ticket 300: rambled",
        "  - ticket 400: rambled",
        "  - ... and 495 more",
    ]


def test_groups_are_counted_and_the_worst_come_first():
    gradient = TextGradient.of(
        [
            Finding("mild", "b.txt", 0.1, ("x",)),
            *[Finding("severe", "a.txt", 0.9, (f"t{n}", "same")) for n in range(3)],
            Finding("mild", "a.txt", 0.1, ()),
        ]
    )
    assert gradient.render() == (
        "a.txt: severe (3 findings, severity 0.90)\n"
        "  - t0\n  - same\n  - t1\n  - t2\n"
        "a.txt: mild (severity 0.10)\nb.txt: mild (severity 0.10)\n  - x"
    )
    assert len(gradient.render(max_evidence=1).splitlines()) == 6


def test_five_hundred_directions_stay_readable():
    gradient = TextGradient.of(
        Finding(f"direction {n:03}", severity=1 - n / 1000) for n in range(500)
    )
    lines = gradient.render().splitlines()
    assert len(lines) == 21
    assert lines[0] == "direction 000"
    assert lines[-1] == "... and 480 more directions (480 findings)"
    plain = Gradient("too slow")
    for _ in range(499):
        plain = plain.accumulate(Gradient("too slow"))
    assert plain.render() == "too slow (500 times)"


def test_what_a_text_gradient_says_can_be_asked_for():
    gradient = TextGradient("be brief", "prompt.md", 0.4, "it rambled")
    assert (gradient.direction, gradient.attribution) == ("be brief", "prompt.md")
    assert (gradient.severity, gradient.evidence) == (0.4, ("it rambled",))
    both = gradient.accumulate(TextGradient("be polite", "tone.md", 0.8, ["it swore"]))
    assert (both.direction, both.attribution) == ("be polite", "tone.md")
    assert both.severity == pytest.approx(0.6)
    assert both.evidence == ("it rambled", "it swore")


@given(st.lists(FINDINGS, min_size=1, max_size=60))
def test_rendering_knows_no_chance_and_leaves_no_group_out(findings):
    gradient = TextGradient.of(findings)
    text = gradient.render()
    assert text == TextGradient.of(findings).render()
    for finding in findings:
        head = f"{finding.attribution}: " if finding.attribution else ""
        assert f"{head}{finding.direction}" in text
    groups = {(f.attribution, f.direction) for f in findings}
    assert len(text.splitlines()) <= 7 * len(groups)


@given(st.lists(FINDINGS, min_size=1), st.lists(FINDINGS, min_size=1))
def test_accumulating_changes_neither_side(left, right):
    one, two = TextGradient.of(left), TextGradient.of(right)
    both = one.accumulate(two)
    assert both.findings == (*left, *right)
    assert (one.findings, two.findings) == (tuple(left), tuple(right))


def test_kinds_can_be_mixed():
    plain, text = Gradient("slow"), TextGradient("shorter", "prompt")
    assert plain.accumulate(text).render() == "slow\nprompt: shorter"
    assert text.accumulate(plain).render() == "slow\nprompt: shorter"
    three = plain.accumulate(text).accumulate(Gradient({"any": "object"}))
    assert three.render() == "slow\nprompt: shorter\n{'any': 'object'}"
    assert three.value == "slow"


@pytest.mark.parametrize("severity", [-0.1, 1.1, float("nan")])
def test_severity_has_a_range(severity):
    with pytest.raises(ValueError, match="severity must be between 0 and 1"):
        TextGradient("x", severity=severity)


def test_feedback_on_some_items():
    gradient = TextGradient.of([Finding("a", item="i1"), Finding("b", item="i2"), Finding("c")])
    assert gradient.for_items({"i1"}).render() == "a\nc"
    assert TextGradient.of([Finding("a", item="i1")]).for_items({"i2"}) is None
    plain = Gradient("x")
    assert plain.for_items({"i1"}) is plain


def test_texts_of_items_are_made_once_and_only_where_findings_are_asked_for():
    asked = []

    def texts(name):
        asked.append(name)
        return {"input": name, "output": "?"}

    parts = [(Finding("be brief", item=name), lambda name=name: texts(name)) for name in "abc"]
    gradient = TextGradient.of(parts).accumulate(TextGradient("be polite")).for_items({"a", "b"})
    assert "be brief (2 findings" in gradient.render()
    assert (gradient.direction, gradient.about(), gradient.severity) == ("be brief", "", 1.0)
    assert asked == []
    found = [(each.item, each.input, each.output) for each in gradient.findings]
    assert found == [("a", "a", "?"), ("b", "b", "?"), ("", "", "")]
    assert gradient.values is not None and asked == ["a", "b"]
