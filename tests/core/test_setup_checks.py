"""Set-ups that cannot work: fit refuses them before anything is measured."""

from __future__ import annotations

import warnings

import pytest

from autopilot.core.callback import Callback
from autopilot.core.gate import Gate
from autopilot.core.gradient import TextGradient
from autopilot.core.loss import Loss
from autopilot.core.metric import Metric
from autopilot.core.metrics import FBeta
from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import Parameter
from autopilot.core.policy import Policy
from autopilot.core.setup_checks import check_loader, check_module, item_count
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.data import DataLoader, DataModule, IterableDataset
from autopilot.errors import DataError, EmptySplitError, EvaluationError, ModuleError, UsageError
from autopilot.policy import (
    CustomGate,
    GeneralizationGap,
    MinGate,
    NoRegression,
    QualityFirstPolicy,
    SignificantImprovement,
)
from autopilot.testing import ScriptedOptimizer


class Scale(AutoPilotModule):
    """Passes the items below its level; counts what it measures."""

    def __init__(self):
        super().__init__()
        self.level = Parameter(2)
        self.measured = 0

    def forward(self, batch):
        self.measured += len(batch)
        return Datum(
            items=[
                Datum(success=i.metadata["value"] < self.level.data, metrics={"words": 1.0})
                for i in batch.items
            ]
        )

    def configure_optimizers(self):
        return ScriptedOptimizer(self.parameters(), [("up", 3)])


def items(*values):
    return [[{"id": f"i{v}", "value": v} for v in values]]


TRAIN, VAL = items(3, 4), items(1, 2, 3, 4)


def refused(module, *says, kind=ModuleError, hint="", train=TRAIN, val=VAL, **options):
    """Fit and a dry run say the same, and nothing was measured."""
    texts = []
    for dry_run in (False, True):
        with pytest.raises(kind) as caught:
            Trainer(dry_run=dry_run, **options).fit(module, train, val, max_epochs=1)
        texts.append(str(caught.value))
        for part in says:
            assert part in texts[-1]
        assert hint in caught.value.hint
        assert caught.value.hint
    assert texts[0] == texts[1]
    assert getattr(module, "measured", 0) == 0


# --- the module ----------------------------------------------------------------------------------


def test_a_plain_module_is_no_experiment():
    class Plain(Module):
        pass

    refused(Plain(), "Plain is not an AutoPilotModule", hint="class Plain(AutoPilotModule)")
    refused(Scale, "Scale is not an AutoPilotModule", hint="pass an instance: Scale()")
    refused("model", "str is not an AutoPilotModule")
    for measure in (Trainer().validate, Trainer().test):
        with pytest.raises(ModuleError, match="Plain is not an AutoPilotModule"):
            measure(Plain(), VAL)


def test_a_module_that_is_not_initialized():
    class Bare(AutoPilotModule):
        def __init__(self):
            pass

    refused(Bare(), "Bare.__init__ did not call super().__init__()")


def test_no_optimizer_or_no_forward():
    class NoOptimizer(AutoPilotModule):
        def forward(self, batch):
            return batch

    class NoForward(AutoPilotModule):
        def configure_optimizers(self):
            return ScriptedOptimizer([Parameter(1)], [])

    class OnlyTrains(NoForward):
        def training_step(self, batch):
            return batch

    refused(
        NoOptimizer(),
        "NoOptimizer defines no configure_optimizers()",
        hint="add: def configure_optimizers(self): return",
    )
    refused(
        NoForward(), "NoForward defines neither forward(batch) nor training_step(batch)", hint="add"
    )
    refused(OnlyTrains(), "OnlyTrains defines neither forward(batch) nor validation_step(batch)")


@pytest.mark.parametrize("name", ["training_step", "validation_step", "forward"])
def test_a_step_with_other_arguments(name):
    module = type("Mine", (Scale,), {name: lambda self, batch, batch_idx: batch})()
    refused(
        module,
        f"Mine.{name}(batch, batch_idx) gets one argument: batch",
        hint=f"define it as: def {name}(self, batch)",
    )
    if name != "training_step":
        with pytest.raises(ModuleError, match="gets one argument: batch"):
            Trainer().validate(module, VAL)
    with_default = type(
        "Mine", (Scale,), {name: lambda self, batch, i=0: Scale.forward(self, batch)}
    )
    assert Trainer().fit(with_default(), TRAIN, VAL, max_epochs=1).kept == 1


def test_a_step_that_is_not_used_may_take_what_it_likes():
    class Own(Scale):
        def test_step(self, batch, batch_idx):
            raise AssertionError

        def training_step(self, batch):
            return self.forward(batch, 2)

        def validation_step(self, batch):
            return self.forward(batch, 2)

        def forward(self, batch, scale):
            return super().forward(batch)

    assert Trainer().fit(Own(), TRAIN, VAL, max_epochs=1).kept == 1


@pytest.mark.parametrize(
    "name",
    [
        "forward",
        "training_step",
        "configure_optimizers",
        "configure_loss",
        "train_dataloader",
        "on_train_start",
    ],
)
def test_what_is_async_is_named_and_nothing_is_left_unawaited(name):
    async def method(self, *arguments):
        raise AssertionError

    module = type("Mine", (Scale,), {name: method})()
    kind = UsageError if name.startswith("on_") else ModuleError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(module, f"Mine.{name} is async", hint="asyncio.run(...)", kind=kind)


def test_an_async_step_of_an_optimizer_is_named_before_anything_is_measured():
    class Later(Optimizer):
        async def step(self):
            raise AssertionError

    class Returned(Optimizer):
        def step(self):
            return Later.step(self)

    class Mine(Scale):
        def configure_optimizers(self):
            return self.kind(self.parameters())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(type("Mine", (Mine,), {"kind": Later})(), "Later.step is async")
        with pytest.raises(ModuleError, match=r"Returned.step\(\) returned a coroutine"):
            Trainer().fit(type("Mine", (Mine,), {"kind": Returned})(), TRAIN, VAL, max_epochs=1)


def test_a_gate_on_a_train_metric_that_does_not_exist_ends_the_first_epoch():
    class Strict(Scale):
        def configure_policy(self):
            return MinGate("recall", 0.5, split="train")

    with pytest.raises(UsageError, match=r"no train metric 'recall', which MinGate\(train recall"):
        Trainer().fit(Strict(), TRAIN, VAL, max_epochs=3)


def test_a_coroutine_that_comes_back_is_closed_and_named():
    class Hidden(Scale):
        async def answer(self, batch):
            raise AssertionError

        def forward(self, batch):
            return self.answer(batch)

    class OneEach(Hidden):
        def forward(self, batch):
            return Datum(items=[self.answer(item) for item in batch.items])

    class InSuccess(Hidden):
        def forward(self, batch):
            return Datum(items=[Datum(success=self.answer(item)) for item in batch.items])

    class InMetadata(Hidden):
        def forward(self, batch):
            return Datum(metadata={"text": self.answer(batch)}, success=True)

    class Configures(Scale):
        def configure_loss(self):
            return Hidden.answer(self, None)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (Hidden, OneEach, InSuccess, InMetadata):
            with pytest.raises(EvaluationError, match="returned a coroutine") as caught:
                Trainer().fit(kind(), TRAIN, VAL, max_epochs=1)
            assert "Hidden.answer" in str(caught.value)
            assert "asyncio.run" in caught.value.hint
        refused(Configures(), "configure_loss() returned a coroutine")


def test_hooks_of_a_module_and_of_callbacks_get_their_arguments():
    class Own(Scale):
        def on_train_batch_end(self, outputs, batch):
            raise AssertionError

    refused(
        Own(),
        "Own.on_train_batch_end(outputs, batch) gets 3 arguments: outputs, batch, batch_idx",
        kind=UsageError,
        hint="def on_train_batch_end(self, outputs, batch, batch_idx)",
    )

    class WithTrainer(Scale):
        def on_fit_start(self, trainer, module):
            raise AssertionError

    refused(WithTrainer(), "on_fit_start(trainer, module) gets no arguments", kind=UsageError)

    class Shout(Callback):
        def on_verdict(self, trainer, module):
            raise AssertionError

    says = r"Shout.on_verdict\(trainer, module\) gets 3 arguments: trainer, module, decision"
    with pytest.raises(UsageError, match=says) as caught:
        Trainer(Shout())
    assert caught.value.hint == "define it as: def on_verdict(self, trainer, module, decision)"
    module = Scale()
    module.configure_callbacks = lambda: [Shout()]
    with pytest.raises(UsageError, match=says):
        Trainer().fit(module, TRAIN, VAL, max_epochs=1)
    assert module.measured == 0


def test_a_metric_that_cannot_be_updated():
    class Half(Metric):
        def update(self, data):
            raise AssertionError

    class Wide(Half):
        def update(self, data, targets):
            raise AssertionError

        def compute(self):
            raise AssertionError

    for metric, says in (
        (Half(), "Half defines no compute()"),
        (Wide(), "gets one argument: data"),
    ):
        module = Scale()
        module.metric = metric
        refused(module, says)


# --- the optimizer -------------------------------------------------------------------------------


class Inert(Optimizer):
    """Defines no step."""


class Eager(Optimizer):
    def step(self, gradients):
        raise AssertionError


class Uninitialized(Optimizer):
    def __init__(self):
        pass

    def step(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda o: {"optimizer": o, "lr_scheduler": None}, "a dict of optimizer, lr_scheduler"),
        (lambda o: ([o], [None]), "a tuple of list, list, as in Lightning"),
        (lambda o: [{"optimizer": o}], "a list of dict, as in Lightning"),
        (lambda o: [o, "adam"], "a list of ScriptedOptimizer, str, not an Optimizer"),
        (lambda o: None, "returned None, not an Optimizer"),
        (lambda o: [], "a list of nothing, not an Optimizer"),
        (lambda o: type(o), "returned a type, not an Optimizer"),
        (lambda o: Inert(o.parameters), "Inert defines no step()"),
        (lambda o: Eager(o.parameters), "Eager.step(gradients) gets no arguments"),
        (lambda o: [o, Eager(o.parameters)], "Eager.step(gradients) gets no arguments"),
        (lambda o: Uninitialized(), "Uninitialized.__init__ did not call super().__init__()"),
    ],
)
def test_what_is_no_optimizer(make, says):
    class Mine(Scale):
        def configure_optimizers(self):
            return make(super().configure_optimizers())

    refused(Mine(), says)


# --- the loss ------------------------------------------------------------------------------------


class Told(Loss):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, data, targets):
        self.seen += len(data)
        return TextGradient("up")


class Other(Told):
    pass


def test_a_loss_that_is_an_attribute_is_used():
    module = Scale()
    module.loss = Told()
    assert Trainer().fit(module, TRAIN, VAL, max_epochs=1).kept == 1
    assert module.loss.seen == 2
    # Two names of one loss are one.
    module = Scale()
    module.loss = module.criterion = Told()
    Trainer().fit(module, TRAIN, VAL, max_epochs=1)
    assert module.loss.seen == 2

    class OfTheClass(Scale):
        loss = Told()

    Trainer().fit(OfTheClass(), TRAIN, VAL, max_epochs=1)
    assert OfTheClass.loss.seen == 2


def test_a_loss_that_is_a_class_is_named():
    module = Scale()
    module.loss = Loss
    refused(module, "Scale.loss is the class Loss, not a loss", hint="self.loss = Loss()")


def test_a_failed_value_that_nothing_reads_is_named():
    module = Scale()
    module.f1, module.monitor, module.failed_value = FBeta(), "f1", 0.0
    with pytest.raises(UsageError, match="failed_value does nothing: 'f1' is made of no number"):
        Trainer().prepare(module)


@pytest.mark.parametrize("as_list", [False, True])
def test_two_losses_are_an_error_that_names_both(as_list):
    module = Scale()
    if as_list:
        module.losses = [Told(), Other()]
        says = "self.losses[0] (Told) and self.losses[1] (Other)"
    else:
        module.loss, module.extra = Told(), Other()
        says = "self.loss (Told) and self.extra (Other)"
    refused(module, "Scale has several losses", says, hint="configure_loss()")


def test_an_attribute_beside_configure_loss_must_be_what_it_returns():
    class Both(Scale):
        def __init__(self, pick):
            super().__init__()
            self.loss = Told()
            self.pick = pick

        def configure_loss(self):
            return self.pick(self.loss)

    refused(
        Both(lambda own: Other()),
        "Both.configure_loss() returned Other, and self.loss (Told) would not be used",
    )

    def wrapping(own):
        outer = Other()
        outer.inner = own
        return outer

    for pick in (lambda own: own, lambda own: [own, Other()], wrapping):
        assert Trainer().fit(Both(pick), TRAIN, VAL, max_epochs=1).kept == 1


def test_a_loss_that_cannot_be_called():
    class Narrow(Loss):
        def forward(self, data):
            raise AssertionError

    class Bare(Loss):
        def __init__(self):
            pass

    for loss, says in (
        (Narrow(), "Narrow.forward(data) gets 2 arguments: data, targets"),
        (Bare(), "Bare.__init__ did not call super().__init__()"),
    ):
        module = Scale()
        module.loss = loss
        refused(module, says)


# --- the policy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        MinGate("words", 2.0),
        [MinGate("words", 2.0)],
        (MinGate("words", 2.0), MinGate("words", 0.0)),
    ],
    ids=["gate", "list", "tuple"],
)
def test_gates_are_a_policy(policy):
    of_trainer = Trainer(policy=policy)
    assert of_trainer.fit(Scale(), TRAIN, VAL, max_epochs=1).kept == 0
    module = Scale()
    module.configure_policy = lambda: policy
    trainer = Trainer()
    assert trainer.fit(module, TRAIN, VAL, max_epochs=1).kept == 0
    for each in (of_trainer, trainer):
        assert "val words 1.000 is below 2.000" in each.experiment.history[1].reasons


@pytest.mark.parametrize("base", [Policy, QualityFirstPolicy])
@pytest.mark.parametrize("name", ["forward", "__call__"])
def test_a_policy_that_nothing_would_ask(base, name):
    policy = type("Mine", (base,), {name: lambda self, view: True})()
    with pytest.raises(ModuleError, match=rf"Mine\.{name} would never be called") as caught:
        Trainer(policy=policy)
    assert "override judge(self, view)" in caught.value.hint
    module = Scale()
    module.configure_policy = lambda: policy
    refused(module, f"Mine.{name} would never be called", hint="override judge(self, view)")

    class Asked(base):
        def judge(self, view):
            return self.forward(view)

        def forward(self, view):
            return super().judge(view)

    assert Trainer(policy=Asked()).fit(Scale(), TRAIN, VAL, max_epochs=1).kept == 1


def test_what_is_no_policy():
    class Wide(Policy):
        def judge(self, view, best):
            raise AssertionError

    class NoGates(Policy):
        def __init__(self):
            """Decides by itself."""

        def judge(self, view):
            return Policy().judge(view)

    class BareGate(Gate):
        def __init__(self):
            pass

        def check(self, view):
            raise AssertionError

    for policy, says in (
        (Wide(), r"Wide.judge\(view, best\) gets one argument: view"),
        ([BareGate()], "BareGate.__init__ did not call"),
        (Policy, "the policy is <class"),
    ):
        with pytest.raises(ModuleError, match=says):
            Trainer(policy=policy)
    with pytest.raises(UsageError, match="'high' is not a Gate"):
        Trainer(policy=["high"])
    assert Trainer(policy=NoGates()).fit(Scale(), TRAIN, VAL, max_epochs=1).kept == 1
    module = Scale()
    module.policy = QualityFirstPolicy()
    refused(module, "nothing asks the policy Scale.policy", hint="configure_policy()")
    assert Trainer(policy=module.policy).fit(module, TRAIN, VAL, max_epochs=1).kept == 1


@pytest.mark.parametrize(
    "gate",
    [
        MinGate("accuracy", 0.1),
        NoRegression("accuracy"),
        GeneralizationGap(0.5),
        SignificantImprovement(),
        CustomGate("accuracy", bool),
    ],
    ids=lambda gate: type(gate).__name__,
)
def test_a_gate_on_val_where_there_is_no_val_split(gate):
    refused(
        Scale(),
        f"{gate.name} reads val metrics, and there is no val split",
        hint="define val_dataloader()",
        val=None,
        policy=gate,
    )
    # The train split is there in any case.
    assert Trainer(policy=MinGate("words", 0, "train")).fit(Scale(), TRAIN, max_epochs=1).kept == 1


@pytest.mark.parametrize("split", ["test", "vall"])
def test_a_gate_on_a_split_that_no_epoch_measures(split):
    refused(Scale(), f"reads {split} metrics", policy=MinGate("words", 0.5, split))


def test_a_monitor_without_a_val_split():
    refused(Scale(), "no val split to monitor 'words'", kind=UsageError, val=None, monitor="words")


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda required: MinGate("recall", 0.5, required=required),
        lambda required: NoRegression(["words", "recall"], required=required),
        lambda required: GeneralizationGap(0.5, "recall", required=required),
        lambda required: CustomGate("recall", bool, required=required),
    ],
)
def test_a_gate_on_a_metric_that_does_not_exist_ends_the_run_at_the_baseline(make, required):
    gate, module = make(required), Scale()
    trainer = Trainer(policy=gate)
    with pytest.raises(UsageError, match="there is no val metric 'recall'") as caught:
        trainer.fit(module, TRAIN, VAL, max_epochs=1)
    assert gate.name in str(caught.value)
    assert caught.value.hint == "let it read one of: accuracy, words"
    assert module.measured == 4
    assert not trainer.experiment.history


def test_a_gate_of_a_second_fit_is_looked_at_too():
    module, trainer = Scale(), Trainer()
    trainer.fit(module, TRAIN, VAL, max_epochs=1)
    trainer.policy = Policy([MinGate("recall", 0.5)])
    measured = module.measured
    with pytest.raises(UsageError, match="there is no val metric 'recall'"):
        trainer.fit(module, TRAIN, VAL, max_epochs=2)
    assert module.measured == measured


# --- the splits ----------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __init__(self, *rows):
        self.rows, self.passes = rows, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.rows)


class Sized:
    """A loader of somebody else's."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        raise AssertionError


EMPTY = {
    "list": [],
    "batch": [[]],
    "loader": DataLoader([], batch_size=4),
    "dropped": DataLoader([1, 2], batch_size=4, drop_last=True),
    "sampler": DataLoader([1, 2], sampler=[]),
    "other": Sized(0),
}


@pytest.mark.parametrize("loader", EMPTY.values(), ids=EMPTY)
def test_an_empty_split(loader):
    refused(Scale(), "the val split is empty", kind=DataError, val=loader, hint="val_dataloader()")
    refused(Scale(), "the train split is empty", kind=DataError, train=loader)
    with pytest.raises(EmptySplitError, match="the test split is empty"):
        check_loader(loader, "test")


@pytest.mark.parametrize("loader", ["train.jsonl", {"a": [1]}, 7, Scale()])
def test_what_gives_no_batches(loader):
    refused(Scale(), "the val split is a ", "which gives no batches", val=loader)


def test_what_gives_its_batches_once_is_no_val_split():
    refused(Scale(), "the val split is a list_iterator", kind=DataError, val=iter(VAL))


def test_nothing_is_consumed_by_a_look():
    stream, once = Stream({"value": 1}), iter(TRAIN)
    check_loader(DataLoader(stream), "val")
    check_loader(Sized(3), "val")
    check_loader(once, "train")
    check_loader(once, "test")
    assert stream.passes == 0
    assert list(once) == TRAIN


@pytest.mark.parametrize(
    ("loader", "count"),
    [
        (DataLoader([1, 2, 3], batch_size=2), 3),
        ([[1, 2], [3]], 3),
        ([{"id": "a", "value": 1}, Datum(items=[Datum(), Datum()])], 3),
        (DataLoader(Stream(1)), None),
        (iter(TRAIN), None),
        (Sized(3), None),
    ],
)
def test_the_number_of_items(loader, count):
    assert item_count(loader) == count


def test_a_data_module_that_cannot_be_called():
    class NoStage(DataModule):
        def setup(self):
            raise AssertionError

    class Later(DataModule):
        async def train_dataloader(self):
            raise AssertionError

    for data, says in (
        (NoStage(), r"NoStage.setup\(\) gets one argument: stage"),
        (Later(), "Later.train_dataloader is async"),
    ):
        with pytest.raises(ModuleError, match=says):
            Trainer().fit(Scale(), datamodule=data)


def test_a_verdict_that_is_no_decision():
    class Says(Policy):
        def judge(self, view):
            return True

    with pytest.raises(ModuleError, match=r"Says\.judge returned True, not a Decision"):
        Trainer(policy=Says()).fit(Scale(), TRAIN, VAL, max_epochs=1)


def test_hooks_that_are_registered_get_their_arguments():
    module = Scale()
    optimizer = module.configure_optimizers()
    for register, says in (
        (optimizer.register_step_post_hook, "the step hook(a) gets 2 arguments: optimizer, step"),
        (module.register_forward_hook, "gets 3 arguments: module, args, output"),
        (module.register_forward_pre_hook, "gets 2 arguments: module, args"),
    ):
        with pytest.raises((UsageError, ModuleError)) as caught:
            register(lambda a: None)
        assert says in str(caught.value)


def test_a_sound_module_passes():
    check_module(Scale())
