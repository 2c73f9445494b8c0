"""Modules: registration, names, state, hooks, and what is refused."""

import copy

import pytest

from autopilot.core.containers import ModuleDict, ModuleList, Sequential
from autopilot.core.graph import Graph
from autopilot.core.metric import MetricCollection
from autopilot.core.metrics import Accuracy
from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum
from autopilot.errors import ModuleError, StateError


class Leaf(Module):
    def __init__(self, value=0):
        super().__init__()
        self.p = Parameter(value)

    def forward(self, x):
        return Datum(metadata={"x": x})


class Tree(Module):
    def __init__(self):
        super().__init__()
        self.top = Parameter("t")
        self.left, self.right = Leaf("l"), Leaf("r")
        self.more = ModuleList([Leaf("m0"), Leaf("m1")])
        self.named = ModuleDict({"a": Leaf("na")})


def test_names_are_dotted_paths_in_order():
    tree = Tree()
    assert [(name, p.data) for name, p in tree.named_parameters()] == [
        ("top", "t"),
        ("left.p", "l"),
        ("right.p", "r"),
        ("more.0.p", "m0"),
        ("more.1.p", "m1"),
        ("named.a.p", "na"),
    ]
    names = ["", "left", "right", "more", "more.0", "more.1", "named", "named.a"]
    assert [name for name, _ in tree.named_modules()] == names
    assert [name for name, _ in tree.named_children()] == ["left", "right", "more", "named"]
    assert len(list(tree.modules())) == 8
    assert [type(child).__name__ for child in tree.children()][:2] == ["Leaf", "Leaf"]
    assert [p.data for p in tree.parameters(recurse=False)] == ["t"]


def test_what_is_shared_is_listed_once():
    tree = Tree()
    tree.right = tree.left
    tree.again = tree.top
    names = [name for name, _ in tree.named_parameters()]
    assert names == ["top", "left.p", "more.0.p", "more.1.p", "named.a.p"]
    assert len([m for m in tree.modules() if m is tree.left]) == 1
    tree.left.loop = tree
    assert len(list(tree.modules())) == 7


def test_attributes_come_and_go():
    leaf = Leaf()
    leaf.other = Parameter(1)
    del leaf.p
    assert [name for name, _ in leaf.named_parameters()] == ["other"]
    assert not hasattr(leaf, "p")
    leaf.other = Leaf()
    assert [name for name, _ in leaf.named_parameters()] == ["other.p"]
    leaf.other = None
    assert leaf.parameters() == []


def test_a_parameter_is_not_replaced_by_a_value():
    leaf = Leaf("old")
    with pytest.raises(ModuleError, match=r"Leaf\.p is a parameter, not a str") as caught:
        leaf.p = "new"
    assert caught.value.hint == "set Leaf.p.data, or del Leaf.p first"
    assert leaf.p.data == "old"


def test_train_and_eval_reach_everything():
    tree = Tree()
    assert tree.training
    assert tree.eval() is tree
    assert not any(m.training for m in tree.modules())
    tree.left.train()
    assert (tree.training, tree.left.training) == (False, True)
    tree.train()
    assert all(m.training for m in tree.modules())


def test_apply_goes_from_the_leaves_up():
    seen = []
    tree = Tree()
    assert tree.apply(lambda m: seen.append(type(m).__name__)) is tree
    assert seen == ["Leaf"] * 4 + ["ModuleList", "Leaf", "ModuleDict", "Tree"]


def test_requires_grad_and_zero_grad():
    tree = Tree()
    tree.requires_grad_(False)
    assert not any(p.requires_grad for p in tree.parameters())
    tree.requires_grad_()
    for parameter in tree.parameters():
        parameter.grad = object()
    tree.zero_grad()
    assert all(p.grad is None for p in tree.parameters())


def test_state_goes_from_one_module_to_another():
    tree, other = Tree(), Tree()
    tree.left.p.data = ["changed"]
    state = tree.state_dict()
    tree.left.p.data.append("later")
    other.load_state_dict(state)
    assert other.left.p.data == ["changed"]
    assert other.state_dict() == state


def test_a_state_that_does_not_fit_is_refused_with_the_names():
    tree = Tree()
    state = tree.state_dict()
    del state["left.p"], state["top"]
    state["wrong"] = 1
    state["right.p"] = "changed"
    with pytest.raises(StateError) as caught:
        tree.load_state_dict(state)
    assert caught.value.message == (
        "the state does not fit Tree: missing keys left.p, top; unexpected keys wrong"
    )
    assert tree.right.p.data == "r"
    tree.load_state_dict(state, strict=False)
    assert (tree.right.p.data, tree.left.p.data) == ("changed", "l")


def test_hooks_see_and_replace():
    leaf, seen = Leaf(), []
    leaf.register_forward_pre_hook(lambda m, args: seen.append(("before", args)))
    handle = leaf.register_forward_pre_hook(lambda m, args: args[0] + 1)
    leaf.register_forward_hook(lambda m, args, out: seen.append((args, out.metadata["x"])))
    assert leaf(1).metadata["x"] == 2
    assert seen == [("before", (1,)), ((2,), 2)]
    handle.remove()
    handle.remove()
    assert leaf(1).metadata["x"] == 1
    replace = leaf.register_forward_hook(lambda m, args, out: Datum(metadata={"x": "other"}))
    assert leaf(1).metadata["x"] == "other"
    replace.remove()
    two = leaf.register_forward_pre_hook(lambda m, args: (args[0] * 10,))
    assert leaf(1).metadata["x"] == 10
    two.remove()


def test_the_same_hook_twice_is_removed_once():
    leaf, seen = Leaf(), []

    def hook(module, args):
        seen.append(args)

    first = leaf.register_forward_pre_hook(hook)
    leaf.register_forward_pre_hook(hook)
    first.remove()
    first.remove()
    leaf(1)
    assert seen == [(1,)]


@pytest.mark.parametrize("kind", [Module, AutoPilotModule])
def test_a_forgotten_super_init_is_said(kind):
    class Forgot(kind):
        def __init__(self):
            self.p = Parameter(1)

    class Empty(kind):
        def __init__(self):
            self.size = 3

    with pytest.raises(ModuleError, match=r"Forgot.__init__ did not call super\(\).__init__\(\)"):
        Forgot()
    empty = Empty()
    for use in (empty.parameters, lambda: empty(1), lambda: list(empty.named_modules())):
        with pytest.raises(ModuleError, match=r"Empty\.__init__ did not call"):
            use()
    assert repr(empty) == "Empty()"


def test_what_is_not_defined_is_said():
    with pytest.raises(NotImplementedError, match=r"Module defines no forward\(batch\)"):
        Module()(1)
    with pytest.raises(NotImplementedError, match="defines no configure_optimizers"):
        AutoPilotModule().configure_optimizers()


def test_repr_is_readable():
    assert repr(Tree()) == (
        "Tree(\n"
        "  (top): Parameter('t')\n"
        "  (left): Leaf(\n"
        "    (p): Parameter('l')\n"
        "  )\n"
        "  (right): Leaf(\n"
        "    (p): Parameter('r')\n"
        "  )\n"
        "  (more): ModuleList(\n"
        "    (0): Leaf(\n"
        "      (p): Parameter('m0')\n"
        "    )\n"
        "    (1): Leaf(\n"
        "      (p): Parameter('m1')\n"
        "    )\n"
        "  )\n"
        "  (named): ModuleDict(\n"
        "    (a): Leaf(\n"
        "      (p): Parameter('na')\n"
        "    )\n"
        "  )\n"
        ")"
    )


def test_a_copy_is_independent():
    tree = Tree()
    twin = copy.deepcopy(tree)
    twin.left.p.data = "changed"
    twin.extra = Leaf()
    assert tree.left.p.data == "l"
    assert len(tree.parameters()) == 6


def test_metrics_are_attributes_too():
    class Scored(Module):
        def __init__(self):
            super().__init__()
            self.accuracy = Accuracy()
            self.inner = Leaf()
            self.inner.both = MetricCollection({"a": Accuracy()})

    assert [name for name, _ in Scored().named_metrics()] == ["accuracy", "inner.both"]
    assert [name for name, _ in Scored().named_parameters()] == ["inner.p"]


def test_steps_are_the_forward_unless_defined():
    class Echo(AutoPilotModule):
        def forward(self, batch):
            return ("forward", batch)

    echo = Echo()
    for step in (echo.training_step, echo.validation_step, echo.test_step):
        assert step(1) == ("forward", 1)
    assert (echo.monitor, echo.mode, echo.accumulate_grad_batches) == ("accuracy", None, None)
    assert echo.configure_policy() is None
    assert echo.configure_callbacks() == []
    loaders = (echo.train_dataloader, echo.val_dataloader, echo.test_dataloader)
    assert [loader() for loader in loaders] == [None, None, None]


def test_a_replaced_output_keeps_its_graph():
    leaf = Leaf()

    def stamp(module, args, out):
        out.metadata["stamped"] = True
        return out

    leaf.register_forward_hook(stamp)
    leaf.register_forward_hook(lambda m, args, out: Datum(metadata=out.metadata))
    assert leaf(1).metadata["stamped"]
    assert [n.module for n in Graph(leaf(1)).nodes()] == [leaf]


def test_torchs_positional_arguments():
    class Outer(Module):
        def __init__(self):
            super().__init__()
            self.own, self.inner = Parameter(1), Sequential(Module(), ModuleList([Parameter(2)]))
            self.again = self.inner

    outer = Outer()
    assert [p.data for p in outer.parameters(False)] == [1]
    assert [name for name, _ in outer.named_parameters("top")] == ["top.own", "top.inner.1.0"]
    assert len(list(outer.children())) == 1
    outer.load_state_dict({"own": 5}, False)
    assert outer.own.data == 5


def test_a_hook_may_remove_itself():
    called, echo = [], Leaf()
    handles = []
    for number in range(2):

        def hook(module, args, output, number=number):
            called.append(number)
            handles[number].remove()

        handles.append(echo.register_forward_hook(hook))
    echo(Datum())
    echo(Datum())
    assert called == [0, 1]


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.register_forward_hook(print),
        lambda m: m.register_forward_pre_hook(print),
        lambda m: m.training,
        lambda m: m.train(),
        lambda m: m(Datum()),
        lambda m: m.state_dict(),
    ],
)
def test_a_forgotten_super_init_is_said_wherever_it_shows(use):
    class Forgets(Module):
        def __init__(self):
            pass

    with pytest.raises(ModuleError, match=r"Forgets\.__init__ did not call super\(\)\.__init__"):
        use(Forgets())
    assert repr(Forgets()) == "Forgets()"
    with pytest.raises(AttributeError, match="Forgets has no attribute 'colour'"):
        Forgets().colour  # noqa: B018  # the access is the test
