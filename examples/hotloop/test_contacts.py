"""The guard: an edit that fails one of these is rejected before it is measured."""

from contacts import contacts


def test_one_visitor_meets_nobody():
    assert contacts([]) == 0
    assert contacts([(0, 60)]) == 0


def test_each_pair_counts_once_in_any_order():
    assert contacts([(0, 60), (30, 90), (50, 100)]) == 3
    assert contacts([(50, 100), (0, 60), (30, 90)]) == 3
    assert contacts([(0, 60), (0, 60)]) == 1


def test_a_long_visit_meets_all_short_ones():
    assert contacts([(0, 600), (60, 120), (300, 360)]) == 2


def test_who_comes_when_another_goes_meets_nobody():
    assert contacts([(0, 60), (60, 120)]) == 0
    assert contacts([(60, 120), (0, 60), (120, 180)]) == 0


def test_the_list_stays_as_it_is():
    visits = [(60, 120), (0, 60)]
    contacts(visits)
    assert visits == [(60, 120), (0, 60)]
