"""Callbacks: which are taken."""

import inspect

import pytest

from autopilot.core.callback import HOOKS, Callback, check_callback
from autopilot.core.trainer import Trainer
from autopilot.errors import UsageError


def with_method(name):
    return type("Mine", (Callback,), {name: lambda self, *a: None})()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("on_train_epoch_ends", "did you mean on_train_epoch_end?"),
        ("on_val_start", "did you mean on_validation_start?"),
        ("on_validation_epoch_ends", "did you mean"),
        ("on_xyzzy", "moments: on_after_backward"),
    ],
)
def test_a_method_that_would_never_be_called_is_refused_at_construction(wrong, hint):
    with pytest.raises(UsageError, match=rf"Mine\.{wrong} would never be called") as caught:
        Trainer(callbacks=[with_method(wrong)])
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_moment_may_be_used(name):
    callback = with_method(name)
    assert check_callback(callback) is callback


def test_other_methods_are_the_users_own():
    check_callback(with_method("once_upon_a_time"))


def test_what_is_no_callback_is_refused():
    with pytest.raises(UsageError, match="is not a Callback"):
        Trainer(callbacks=[print])


def test_every_moment_takes_trainer_and_module_and_does_nothing():
    for name in HOOKS:
        method = getattr(Callback(), name)
        names = list(inspect.signature(method).parameters)
        assert names[:2] == ["trainer", "module"]
        assert method(*[None] * len(names)) is None
