"""Stop conditions, each with its exact reason, also after a resume."""

from itertools import permutations

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import current_run
from autopilot.core.search import SearchLoop
from autopilot.core.stopping import Budget, EarlyStopping, Plateau, ledger_of
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Cost, Datum


class Scores(AutoPilotModule):
    """The n-th state scores the n-th number; 3 train and 2 val items."""

    def __init__(self, *scores, mode="max"):
        super().__init__()
        self.mode, self.monitor = mode, "score"
        self.position = Parameter(0)
        self.scores = scores

    def forward(self, batch):
        score = self.scores[self.position.data]
        values = {"score": score, "half": score / 2}
        return Datum(items=[Datum(metrics=values) for _ in batch.items])

    def configure_optimizers(self):
        return Next(self.parameters())

    def train_dataloader(self):
        return [[1, 2], [3]]

    def val_dataloader(self):
        return [[4, 5]]


class Next(Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters)
        self.tried = 0

    def step(self):
        self.tried += 1
        self.parameters[0].data = self.tried
        return Step(cost=Cost(tokens=100, cost_usd=0.25))

    def state_dict(self):
        return {"tried": self.tried}

    def load_state_dict(self, state):
        self.tried = state["tried"]


def run(condition, *scores, mode="max", epochs=20):
    return Trainer([condition], measure_noise=False).fit(
        Scores(*scores, mode=mode), max_epochs=epochs
    )


UP = tuple(n / 10 for n in range(11))


@pytest.mark.parametrize(
    ("condition", "scores", "epochs", "reason"),
    [
        (EarlyStopping(patience=2), (0.5, 0.6, 0.1, 0.7, 0.1, 0.2, 0.9), 5,
         "2 epochs without improvement"),
        (EarlyStopping(target=0.4), UP, 4, "target reached: val score 0.400, asked for 0.4"),
        (EarlyStopping(target=0.0), UP, 0, "target reached: val score 0.000, asked for 0"),
        (EarlyStopping(2, 0.9), (0.5, 0.1, 0.95), 2, "target reached: val score 0.950, asked for"
         " 0.9"),
        (Plateau(2, 0.15), (0.1, 0.5, 0.9, 0.95, 0.96, 0.97), 4,
         "plateau: 0.060 gained in 2 epochs, asked for 0.15"),
        (Plateau(3), (0.5, 0.1, 0.2, 0.3, 0.9), 3,
         "plateau: 0.000 gained in 3 epochs, asked for 0.001"),
        # At the edge: a gain of just min_delta is enough, and one of the last epochs counts.
        (Plateau(2, 0.5), (0.0, 0.25, 0.5, 0.625, 0.75), 3,
         "plateau: 0.375 gained in 2 epochs, asked for 0.5"),
        (Plateau(1, 0.25), (0.0, 0.25, 0.5, 0.625), 3,
         "plateau: 0.125 gained in 1 epoch, asked for 0.25"),
        (Budget(tokens=250), UP, 3, "token budget: 300 of 250 spent"),
        (Budget(tokens=200), UP, 2, "token budget: 200 of 200 spent"),
        (Budget(tokens=201), UP, 3, "token budget: 300 of 201 spent"),
        (Budget(cost_usd=0.5), UP, 2, "dollar budget: $0.50 of $0.5 spent"),
        # 2 for the baseline, 5 an epoch.
        (Budget(evaluations=12), UP, 2, "evaluation budget: 12 of 12 spent, an epoch takes 5"),
        (Budget(evaluations=16), UP, 2, "evaluation budget: 12 of 16 spent, an epoch takes 5"),
        (Budget(evaluations=17), UP, 3, "evaluation budget: 17 of 17 spent, an epoch takes 5"),
        (Budget(evaluations=3), UP, 0, "evaluation budget: 2 of 3 spent, an epoch takes 2"),
    ],
)  # fmt: skip
def test_the_reason_is_exact(condition, scores, epochs, reason):
    result = run(condition, *scores)
    assert (result.epochs, result.stop_reason) == (epochs, reason)


def test_a_budget_of_calls_begins_no_epoch_that_could_make_none():
    class Asking(Next):
        def step(self):
            with current_run().ledger.reserve("agent") as call:
                call.settle(Cost())
            return super().step()

    module = Scores(*UP)
    module.configure_optimizers = lambda: Asking(module.parameters())
    result = Trainer([Budget(calls=2)], measure_noise=False).fit(module, max_epochs=9)
    found = result.epochs, result.stop_reason, result.interrupted
    assert found == (2, "call budget: 2 of 2 made", False)


@pytest.mark.parametrize(
    ("budget", "epochs", "reason"),
    [
        (Budget(calls=6), 2, "call budget: 6 of 6 made"),
        (Budget(calls=8), 2, "call budget: 6 of 8 made, an epoch takes at least 3"),
        (Budget(calls=2), 0, "call budget: 0 of 2 made, an epoch takes at least 3"),
        (Budget(tokens=899), 2, "token budget: 600 of 899 spent, an epoch takes 300"),
        (Budget(tokens=900), 3, "token budget: 900 of 900 spent"),
        (Budget(cost_usd=2.0), 2, "dollar budget: $1.50 of $2 spent, an epoch takes $0.75"),
        (Budget(cost_usd=2.25), 3, "dollar budget: $2.25 of $2.25 spent"),
        (Budget(evaluations=30), 3, "evaluation budget: 29 of 30 spent, an epoch takes 9"),
    ],
)
def test_several_candidates_are_begun_if_all_can_be_paid(budget, epochs, reason):
    class Asking(Next):
        merges = True

        def step(self):
            with current_run().ledger.reserve("agent") as call:
                call.settle(Cost())
            self.tried += self.proposal[0]
            self.parameters[0].data = self.tried
            return Step(cost=Cost(tokens=100, cost_usd=0.25))

    def result(store):
        module = Scores(*range(99))
        module.configure_optimizers = lambda: Asking(module.parameters())
        trainer = Trainer(
            [budget], experiment=Experiment(store), measure_noise=False, loop=SearchLoop(3)
        )
        found = trainer.fit(module, max_epochs=epochs + 2)
        return found.epochs, found.stop_reason, found.interrupted

    store = InMemoryStore()
    assert result(store) == (epochs, reason, False)
    assert result(store) == (epochs, reason, False)  # resumed


def test_lower_can_be_better():
    result = run(EarlyStopping(target=0.3), 0.5, 0.4, 0.3, 0.2, mode="min")
    assert (result.epochs, result.best) == (2, 0.3)
    assert run(EarlyStopping(patience=1), 0.5, 0.6, 0.1, mode="min").epochs == 1


def test_nothing_stops_without_a_reason():
    condition = Budget(evaluations=10_000, seconds=1000, tokens=10_000, cost_usd=100)
    assert run(condition, *UP, epochs=5).stop_reason == "reached the maximum of 5 epochs"


@pytest.mark.parametrize("bad", [lambda: EarlyStopping(patience=0), lambda: Plateau(0)])
def test_what_could_never_hold_is_refused(bad):
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        bad()


@pytest.mark.parametrize("first", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping(patience=2),
        lambda: Plateau(2, 0.15),
        lambda: Budget(evaluations=16),
        lambda: Budget(tokens=350),
        lambda: Budget(evaluations=5),
        lambda: EarlyStopping(patience=2, monitor="half", mode="max"),
        lambda: EarlyStopping(target=0.31, monitor="half", mode="max"),
    ],
)
def test_a_resumed_run_stops_where_the_whole_one_does(make, first):
    scores = (0.5, 0.6, 0.62, 0.1, 0.2, 0.3)
    whole = run(make(), *scores, epochs=5)
    store = InMemoryStore()
    for epochs in (first, 5):
        trainer = Trainer([make()], experiment=Experiment(store), measure_noise=False)
        result = trainer.fit(Scores(*scores), max_epochs=epochs)
    assert (result.epochs, result.stop_reason) == (whole.epochs, whole.stop_reason)


def test_time_before_a_kill_counts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow(Scores):
        def forward(self, batch):
            now[0] += 10
            if len(self.calls) == self.dies_at:
                raise KeyboardInterrupt
            self.calls.append(1)
            return super().forward(batch)

    def slow(dies_at):
        module = Slow(*UP)
        module.calls, module.dies_at = [], dies_at
        return module

    store = InMemoryStore()
    with pytest.raises(KeyboardInterrupt):
        # The baseline and one of two training batches are done.
        Trainer(experiment=Experiment(store), measure_noise=False).fit(slow(2), max_epochs=1)
    result = Trainer(experiment=Experiment(store), measure_noise=False).fit(
        slow(None), max_epochs=1
    )
    # With the batch that was interrupted, which brought nothing.
    assert result.cost.seconds == 50.0


def test_what_a_kill_lost_is_paid_for(monkeypatch):
    """A pipeline's train results cannot be replayed: they are made again, and both count."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Pipeline(Scores):
        def __init__(self, *scores):
            super().__init__(*scores)
            self.inner = Inner()

        def forward(self, batch):
            self.inner(batch)
            now[0] += 10
            if len(self.calls) == self.dies_at:
                raise KeyboardInterrupt
            self.calls.append(1)
            return super().forward(batch)

    class Inner(Module):
        def forward(self, batch):
            return Datum(items=[Datum(success=True) for _ in batch.items])

    def pipeline(dies_at):
        module = Pipeline(*UP)
        module.calls, module.dies_at = [], dies_at
        return module

    whole = Trainer(measure_noise=False).fit(pipeline(None), max_epochs=1).cost
    store = InMemoryStore()
    with pytest.raises(KeyboardInterrupt):
        Trainer(experiment=Experiment(store), measure_noise=False).fit(pipeline(2), max_epochs=1)
    resumed = (
        Trainer(experiment=Experiment(store), measure_noise=False)
        .fit(pipeline(None), max_epochs=1)
        .cost
    )
    # The first train batch, of two items, was evaluated in both sessions; the second took its time.
    assert (resumed.evaluations, resumed.seconds) == (whole.evaluations + 2, whole.seconds + 20)


def test_a_budget_of_time_holds_over_sessions_that_end_inside_of_an_epoch(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    asked = []

    class Asking(Scores):
        def configure_loss(self):
            return AskingLoss()

    class AskingLoss(Loss):
        def forward(self, data, targets=None):
            for _ in range(5):
                with current_run().ledger.reserve("judge"):
                    asked.append(now[0])
                    now[0] += 10
            return super().forward(data, targets)

    store = InMemoryStore()
    for budget, count in ((25, 3), (25, 3), (45, 5)):
        trainer = Trainer([Budget(seconds=budget)], experiment=Experiment(store))
        assert trainer.fit(Asking(*UP), max_epochs=1).interrupted
        assert len(asked) == count


def test_a_metric_of_its_own_stops():
    class Two(Scores):
        def forward(self, batch):
            data = super().forward(batch)
            for item in data.items:
                item.metrics["loss"] = 1.0 + self.position.data
            return data

    result = Trainer([EarlyStopping(2, monitor="val_loss", mode="min")]).fit(Two(*UP), max_epochs=9)
    assert (result.epochs, result.stop_reason) == (2, "2 epochs without improvement of val loss")
    # Each improvement of it begins the wait anew, whatever the policy makes of the epoch.
    worse = EarlyStopping(2, monitor="score", mode="min")
    waited = Trainer([worse], measure_noise=False).fit(
        Scores(0.5, 0.6, 0.4, 0.45, 0.3, 0.7, 0.8), max_epochs=9
    )
    assert (waited.epochs, worse.best) == (6, 0.3)
    assert run(EarlyStopping(2, monitor="score", mode="max"), 0.5, 0.5, 0.5, 0.6).epochs == 2
    # The baseline is the first to be better than.
    assert run(EarlyStopping(2, monitor="score", mode="max"), 0.5, 0.3, 0.4, 0.45).epochs == 2
    reached = Trainer([EarlyStopping(target=4.0, monitor="loss", mode="max")]).fit(
        Two(*UP), max_epochs=9
    )
    assert reached.stop_reason == "target reached: val loss 4.000, asked for 4"


def test_two_budgets_hold_together_whichever_is_the_smaller():
    for budgets in (
        [Budget(seconds=0), Budget(seconds=50)],
        [Budget(seconds=50), Budget(seconds=0)],
    ):
        result = Trainer(budgets).fit(Scores(*UP), max_epochs=3)
        assert result.epochs == 0 and result.stop_reason.startswith("time budget: ")
        assert result.stop_reason.endswith(" of 0 s spent")
    asked = []

    class Asking(Loss):
        def forward(self, data, targets=None):
            with current_run().ledger.reserve("judge", tokens=60):
                asked.append(1)
            return super().forward(data, targets)

    class Asked(Scores):
        def configure_loss(self):
            return Asking()

    for tokens, count in ((60, 1), (59, 0)):
        for budgets in permutations((Budget(tokens=1000, seconds=50), Budget(tokens=tokens))):
            asked.clear()
            Trainer(budgets).fit(Asked(*UP), max_epochs=1)
            assert bool(asked) == bool(count)


def test_after_a_kill_an_epoch_costs_what_was_called_outside_of_its_steps():
    store = InMemoryStore("demo")
    for step, tokens in ((0, 30), (1, 500)):
        store.note_call(LlmRecord(epoch=1, id=f"k{step}", step=step, cost=Cost(tokens=tokens)))
    ledger = ledger_of(Experiment(store), [])
    assert ledger.take_epoch() == Cost(tokens=30)
    assert ledger.total().tokens == 530
