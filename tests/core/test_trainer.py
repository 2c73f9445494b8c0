"""The trainer: wiring, entry points, data modules, state across sessions."""

import pytest

from autopilot.core.callback import Callback
from autopilot.core.experiment import Experiment
from autopilot.core.metric import Metric
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Step
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.policy import Policy
from autopilot.core.records.record import Manifest
from autopilot.core.stopping import EarlyStopping, Plateau
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.data import DataLoader, DataModule
from autopilot.errors import DataError, ExperimentError, ModuleError, UsageError
from autopilot.testing import ScriptedOptimizer


class Scale(AutoPilotModule):
    def __init__(self, *levels):
        super().__init__()
        self.level = Parameter(2)
        self.levels = levels

    def forward(self, batch):
        return Datum(
            items=[Datum(success=i.metadata["value"] < self.level.data) for i in batch.items]
        )

    def configure_optimizers(self):
        return ScriptedOptimizer(self.parameters(), [(f"to {n}", n) for n in self.levels])


def items(*values):
    return [[{"id": f"i{v}", "value": v} for v in values]]


TRAIN, VAL, TEST = items(3, 4), items(1, 2, 3, 4), items(0, 1, 2, 9)


class Splits(DataModule):
    def __init__(self, told):
        self.told = told

    def prepare_data(self):
        self.told.append("prepare")

    def setup(self, stage):
        self.told.append(f"setup {stage}")

    def train_dataloader(self):
        self.told.append("train")
        return TRAIN

    def val_dataloader(self):
        self.told.append("val")
        return VAL

    def test_dataloader(self):
        self.told.append("test")
        return TEST

    def teardown(self, stage):
        self.told.append(f"teardown {stage}")


def test_a_data_module_goes_through_its_life():
    told, trainer, module = [], Trainer(), Scale(3)
    data = Splits(told)
    trainer.fit(module, datamodule=data, max_epochs=1)
    assert told == ["prepare", "setup fit", "train", "val", "teardown fit"]
    told.clear()
    trainer.validate(module, datamodule=data)
    assert told == ["prepare", "setup validate", "val", "teardown validate"]
    told.clear()
    trainer.test(module, datamodule=data)
    assert told == ["prepare", "setup test", "test", "teardown test"]


@pytest.mark.parametrize("where", ["setup", "loader", "run"])
def test_a_data_module_is_torn_down_after_a_failure(where):
    told = []

    class Fails(Splits):
        def setup(self, stage):
            super().setup(stage)
            if where == "setup":
                raise ZeroDivisionError

        def val_dataloader(self):
            if where == "loader":
                raise ZeroDivisionError
            return super().val_dataloader()

    module = Scale(3)
    if where == "run":
        module.configure_loss = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        Trainer().fit(module, datamodule=Fails(told), max_epochs=1)
    assert told[-1] == "teardown fit"
    assert told.count("teardown fit") == 1


def test_validate_measures_and_records_nothing():
    trainer, module = Trainer(), Scale(3)
    result = trainer.validate(module, VAL)
    assert result.metrics == {"val": {"accuracy": 0.25}}
    assert result.cost.evaluations == 4
    assert (result.stop_reason, result.epochs) == ("", 0)
    assert not trainer.experiment.store.exists()
    assert module.training
    module.level.data = 4
    assert trainer.validate(module, VAL).metrics == {"val": {"accuracy": 0.75}}


def test_a_measurement_leaves_the_run_that_was_fitted():
    module, trainer = Scale(3, 5), Trainer()
    trainer.fit(module, TRAIN, VAL, max_epochs=2)
    ledger, trained = trainer.ledger, trainer.callback_metrics["train"]
    module.level.data = 1
    trainer.validate(module, VAL)
    assert trainer.callback_metrics == {"train": trained, "val": {"accuracy": 0.0}}
    trainer.test(module, TEST)
    assert trainer.callback_metrics["train"] == trained
    assert trainer.current_epoch == 2
    assert trainer.ledger is ledger


def test_test_scores_the_best_state_and_records_it():
    trainer, module = Trainer(), Scale(3, 1)
    trainer.fit(module, TRAIN, VAL, max_epochs=2)
    result = trainer.test(module, TEST)
    assert result.best_epoch == 1
    assert result.metrics == {"test": {"accuracy": 0.75}}
    assert trainer.experiment.metrics[1]["test"] == {"accuracy": 0.75}
    assert trainer.result().metrics["val"] == {"accuracy": 0.5}
    again = Experiment(trainer.experiment.store)
    again.open(module.parameters())
    assert again.metrics[1]["test"] == {"accuracy": 0.75}


def test_test_alone_needs_no_fit():
    trainer = Trainer()
    assert trainer.test(Scale(), TEST).metrics == {"test": {"accuracy": 0.5}}
    assert not trainer.experiment.store.exists()


def test_fit_never_touches_the_test_split():
    class Guarded(Scale):
        def test_dataloader(self):
            raise AssertionError

        def test_step(self, batch):
            raise AssertionError

    assert Trainer().fit(Guarded(3), TRAIN, VAL, max_epochs=1).kept == 1


def test_a_dry_run_touches_nothing():
    module = Scale(3)
    trainer = Trainer(dry_run=True)
    result = trainer.fit(module, (b for b in TRAIN), VAL, max_epochs=3)
    assert result.stop_reason == (
        "dry run: Scale, parameters level by ScriptedOptimizer, feedback from Loss, an unknown "
        "number of train and 1 val batches, monitoring val accuracy (max), 3 epochs"
    )
    assert module.level.data == 2
    assert not trainer.experiment.store.exists()
    for measure in (trainer.validate, trainer.test):
        assert measure(module, VAL).stop_reason.startswith("dry run: Scale, the ")
    module.configure_loss = lambda: None
    with pytest.raises(ModuleError, match=r"configure_loss\(\) returned None, not a Loss"):
        trainer.fit(module, TRAIN, VAL)


def test_a_dry_run_sets_no_data_up():
    class Far(DataModule):
        def prepare_data(self):
            raise AssertionError

        setup = teardown = prepare_data

    said = Trainer(dry_run=True, max_epochs=2).fit(Scale(3), datamodule=Far()).stop_reason
    assert "data from Far (not set up)" in said
    assert said.endswith("2 epochs")


def test_leakage_is_told(caplog):
    train = DataLoader([{"value": 1}, {"value": 2}])
    Trainer().fit(Scale(3), train, DataLoader([{"value": 2}, {"value": 3}]), max_epochs=1)
    assert "leakage: 1 item stands in several splits; the same content in train and" in caplog.text
    caplog.clear()
    Trainer().fit(Scale(3), train, DataLoader([{"value": 3}]), max_epochs=1)
    assert caplog.text == ""


def test_a_module_has_moments_too():
    told = []

    class Told(Scale):
        def on_train_epoch_start(self):
            told.append("start")

        def on_train_batch_end(self, outputs, batch, batch_idx):
            told.append(batch_idx)

    Trainer().fit(Told(3), TRAIN, VAL, max_epochs=1)
    assert told == ["start", 0]

    class Wrong(Scale):
        def on_train_epoch_ends(self):
            raise AssertionError

    with pytest.raises(UsageError, match=r"Wrong\.on_train_epoch_ends would never be called"):
        Trainer().fit(Wrong(3), TRAIN, VAL)


def test_what_lightning_users_write():
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = True

    class Logger:
        def __init__(self):
            self.steps = []

        def log_metrics(self, metrics, step):
            self.steps.append(step)

    logger = Logger()
    trainer = Trainer(Stop(), max_epochs=5)
    assert trainer.fit(Scale(3), TRAIN, VAL).stop_reason == "a callback asked for it"
    assert trainer.should_stop
    result = Trainer(callbacks=[logger], max_epochs=2).fit(Scale(3, 4), TRAIN, VAL)
    assert (result.epochs, logger.steps) == (2, [0, 1, 2])
    assert Trainer(callbacks=None).fit(Scale(3), TRAIN, VAL, max_epochs=1).epochs == 1
    with pytest.raises(UsageError, match="accumulate_grad_batches must be a whole number"):
        Trainer(accumulate_grad_batches=2.5)
    with pytest.raises(UsageError, match="num_workers must be 0 or more, not -1"):
        Trainer(num_workers=-1).fit(Scale(3), TRAIN, VAL)


def test_an_error_while_testing_is_told():
    told = []

    class Tell(Callback):
        def on_exception(self, trainer, module, exception):
            told.append(type(exception).__name__)

    with pytest.raises(DataError):
        Trainer(Tell()).test(Scale(3), [])
    assert told == ["EmptySplitError"]


def test_the_manifest_says_how_it_was_trained():
    trainer = Trainer(seed=7)
    trainer.fit(Scale(3), TRAIN, VAL, max_epochs=1)
    (manifest,) = (m for _, m in trainer.experiment.store.records(Manifest))
    assert manifest.seed == 7
    assert set(manifest.versions) == {"autopilot", "python"}
    with pytest.raises(UsageError, match="the hyperparameter when is a object, which JSON cannot"):
        Trainer(experiment=Experiment(manifest=Manifest(slug="x", hparams={"when": object()}))).fit(
            Scale(3), TRAIN, VAL
        )


def test_what_is_missing_is_said():
    with pytest.raises(ModuleError, match="there is no train split for Scale, and no val split"):
        Trainer().fit(Scale())
    with pytest.raises(ModuleError, match="there is no val split for Scale"):
        Trainer().validate(Scale())
    with pytest.raises(ModuleError, match="there is no test split for Scale"):
        Trainer().test(Scale())
    module = Scale()
    module.configure_optimizers = lambda: "adam"
    with pytest.raises(ModuleError, match=r"configure_optimizers\(\) returned a str, not an Opt"):
        Trainer().fit(module, TRAIN, VAL)
    module = Scale(3)
    module.configure_loss = lambda: [None]
    with pytest.raises(ModuleError, match=r"configure_loss\(\) returned \[None\], not a Loss"):
        Trainer().fit(module, TRAIN, VAL)
    for name, wrong in (("policy", 3), ("callbacks", "none")):
        module = Scale(3)
        setattr(module, f"configure_{name}", lambda wrong=wrong: wrong)
        with pytest.raises(ModuleError, match=rf"configure_{name}\(\) returned {wrong!r}, not a "):
            Trainer().fit(module, TRAIN, VAL)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        Trainer(accumulate_grad_batches=0)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("be louder", "returned str, not a Step"),
        (True, "returned bool, not a Step"),
        (Step(3), "returned a Step whose summary is 3, not a text"),
        (Step("x", strategy=None), "returned a Step whose strategy is None, not a text"),
    ],
)
def test_a_step_that_returns_something_else_is_undone(returned, says):
    module = Scale(3)
    optimizer = ScriptedOptimizer(module.parameters(), [("five", 5)])
    act = optimizer.step
    optimizer.step = lambda: act() and returned
    module.configure_optimizers = lambda: optimizer
    with pytest.raises(ModuleError, match=says):
        Trainer().fit(module, TRAIN, VAL)
    assert module.level.data == 2


def test_an_empty_loader_is_an_error():
    with pytest.raises(DataError, match="the val split is empty"):
        Trainer().fit(Scale(3), TRAIN, [], max_epochs=1)
    with pytest.raises(DataError, match="the train split is empty"):
        Trainer().fit(Scale(3), [], VAL, max_epochs=1)


class Error(Metric):
    higher_is_better = False

    def __init__(self):
        super().__init__()
        self.add_state("wrong", 0)

    def update(self, data):
        self.wrong += sum(not item.success for item in data.leaves())

    def compute(self):
        return float(self.wrong)


@pytest.mark.parametrize("name", ["error", "val_error", "val/error"])
def test_the_direction_comes_from_the_metric(name):
    class Measured(Scale):
        def __init__(self, *levels):
            super().__init__(*levels)
            self.error = Error()

    trainer = Trainer(monitor=name)
    result = trainer.fit(Measured(3, 1), TRAIN, VAL, max_epochs=2)
    assert (trainer.monitor, trainer.mode) == ("error", "min")
    assert (result.baseline, result.best, result.best_epoch) == (3.0, 2.0, 1)


def test_a_mode_must_be_one():
    module = Scale(3)
    module.mode = "maximum"
    with pytest.raises(UsageError, match="mode is 'maximum'"):
        Trainer().fit(module, TRAIN, VAL)


def test_the_trainers_policy_comes_before_the_modules():
    class Never(Policy):
        def __init__(self, name):
            super().__init__()
            self.label = name

        def judge(self, view):
            from autopilot.core.policy import Decision

            return Decision("rejected", (self.label,))

    module = Scale(3)
    module.configure_policy = lambda: Never("module's")
    trainer = Trainer(policy=Never("trainer's"))
    trainer.fit(module, TRAIN, VAL, max_epochs=1)
    assert trainer.experiment.history[1].reasons == ("trainer's",)
    trainer = Trainer()
    trainer.fit(module, TRAIN, VAL, max_epochs=1)
    assert trainer.experiment.history[1].reasons == ("module's",)


class Log:
    def __init__(self):
        self.lines = []

    def log_metrics(self, metrics, step):
        self.lines.append((step, dict(metrics)))


def test_a_logger_gets_the_metrics_of_each_epoch():
    log = Log()
    Trainer(logger=log).fit(Scale(3), TRAIN, VAL, max_epochs=1)
    assert log.lines == [
        (0, {"val/accuracy": 0.25}),
        (1, {"train/accuracy": 0.0, "val/accuracy": 0.5}),
    ]


class Counts(Callback):
    """Remembers how many epochs it saw; two of them are told apart."""

    def __init__(self, step):
        self.step, self.seen = step, 0

    def on_train_epoch_end(self, trainer, module):
        self.seen += self.step

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_callbacks_go_on_with_what_they_remember():
    store = InMemoryStore()
    for epochs in (1, 3):
        one, ten = Counts(1), Counts(10)
        module = Scale(3, 4, 5)
        Trainer([one, ten], experiment=Experiment(store)).fit(module, TRAIN, VAL, max_epochs=epochs)
    assert (one.seen, ten.seen) == (3, 30)


def test_two_plateaus_keep_apart():
    store = InMemoryStore()
    for epochs in (2, 3):
        callbacks = [Plateau(window=2), Plateau(window=5)]
        trainer = Trainer(callbacks, experiment=Experiment(store))
        trainer.fit(Scale(3, 4, 5, 1), TRAIN, VAL, max_epochs=epochs)
    assert [len(callback.best) for callback in callbacks] == [3, 4]


def test_a_recorded_reason_to_stop_holds_until_it_is_ignored():
    store = InMemoryStore()

    def go_on(*, ignore=False):
        experiment = Experiment(store)
        experiment.ignore_stop = ignore
        callbacks = [] if ignore else [EarlyStopping(patience=1)]
        trainer = Trainer(callbacks, experiment=experiment)
        return trainer.fit(Scale(1, 3, 4), TRAIN, VAL, max_epochs=3)

    assert go_on().stop_reason == "1 epochs without improvement"
    again = go_on()
    assert (again.stop_reason, again.epochs) == ("1 epochs without improvement", 1)
    assert go_on(ignore=True).stop_reason == "reached the maximum of 3 epochs"


def test_callbacks_are_told_of_errors_and_torn_down():
    told = []

    class Watches(Callback):
        def on_exception(self, trainer, module, exception):
            told.append(type(exception).__name__)

        def teardown(self, trainer, module, stage):
            told.append(f"teardown {stage}")

    class Fails(Callback):
        def setup(self, trainer, module, stage):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Trainer([Watches(), Fails()]).fit(Scale(3), TRAIN, VAL, max_epochs=1)
    assert told == ["ZeroDivisionError", "teardown fit"]


def test_a_callback_can_stop_the_run():
    class Stops(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.stop("enough")
            trainer.stop("the first reason counts")

    result = Trainer([Stops()]).fit(Scale(3, 4, 5), TRAIN, VAL)
    assert (result.stop_reason, result.epochs) == ("enough", 1)


def test_several_optimizers_run_in_turn():
    module = Scale()
    module.other = Parameter("a")
    module.configure_optimizers = lambda: [
        ScriptedOptimizer([module.level], [("raise", 3)]),
        ScriptedOptimizer([module.other], [("rename", "b")]),
    ]
    trainer = Trainer()
    trainer.fit(module, TRAIN, VAL, max_epochs=1)
    assert (module.level.data, module.other.data) == (3, "b")
    assert trainer.experiment.history[1].strategy == "raise + rename"


def test_rollback_by_hand():
    trainer, module = Trainer(), Scale(3, 4, 1)
    trainer.fit(module, TRAIN, VAL, max_epochs=3)
    assert module.level.data == 4
    trainer.experiment.rollback(1)
    assert module.level.data == 3
    trainer.experiment.rollback()
    assert module.level.data == 4
    with pytest.raises(ExperimentError, match="in-memory has no kept epoch 3") as caught:
        trainer.experiment.rollback(3)
    assert caught.value.hint == "kept epochs: 0, 1, 2"


def test_side_by_side_keeps_order_and_failures_apart():
    class Odd(Scale):
        def forward(self, batch):
            (item,) = batch.items
            if item.metadata["value"] == 3:
                raise RuntimeError("three")
            return super().forward(batch)

    seen = []

    class Looks(Callback):
        def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append([(d.id, d.success, d.error_message) for d in outputs.items])

    Trainer([Looks()], num_workers=4).fit(Odd(9), TRAIN, VAL, max_epochs=1)
    assert seen == [
        [
            ("i1", one, None),
            ("i2", two, None),
            ("i3", False, "RuntimeError: three"),
            ("i4", two, None),
        ]
        for one, two in ((True, False), (True, True))
    ]


def test_the_failures_of_the_test_split_are_those_of_the_best_state():
    class Fragile(Scale):
        def test_step(self, batch):
            return super().forward(batch) if self.level.data > 2 else 1 / 0

    trainer, module = Trainer(), Fragile(5)
    trainer.fit(module, TRAIN, VAL, max_epochs=1)
    tested = trainer.test(module, TEST).test
    assert (tested.before, tested.after) == (0.0, 0.75)
    assert trainer.failures.lines("test") == []


def test_a_run_in_one_process_says_that_python_files_are_imported_once(tmp_path, caplog):
    (tmp_path / "part.py").write_text("x = 1\n")
    module = Scale(3)
    Trainer().fit(module, TRAIN, VAL, max_epochs=1)
    assert "Python files are edited" not in caplog.text
    module.code = PathParameter(tmp_path / "part.py")
    Trainer().fit(module, TRAIN, VAL, max_epochs=1)
    assert "Python files are edited" in caplog.text and "part.py" in caplog.text
