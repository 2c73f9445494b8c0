"""Lists and dicts of modules and parameters."""

import pytest

from autopilot.core.containers import ModuleDict, ModuleList, Sequential
from autopilot.core.module import Module
from autopilot.core.parameter import Parameter
from autopilot.errors import ModuleError


class Leaf(Module):
    def __init__(self, value=0):
        super().__init__()
        self.p = Parameter(value)


def test_module_list():
    modules = ModuleList([Leaf(0)])
    assert modules.append(Leaf(1)) is modules
    assert [m.p.data for m in modules] == [0, 1]
    assert modules[-1].p.data == 1
    assert len(modules) == 2
    with pytest.raises(IndexError):
        modules[2]


def test_module_dict():
    modules = ModuleDict({"a": Leaf(0)})
    modules["b"] = Leaf(1)
    modules["a"] = Leaf(2)
    assert [(name, m.p.data) for name, m in modules.items()] == [("a", 2), ("b", 1)]
    assert "b" in modules and "c" not in modules
    del modules["a"]
    assert list(modules) == ["b"]
    with pytest.raises(KeyError):
        modules["a"]


@pytest.mark.parametrize("name", ["items", "forward", "training", "a.b", ""])
def test_a_module_dicts_own_names_are_not_taken(name):
    modules = ModuleDict()
    with pytest.raises(ModuleError, match="cannot be the name of a module"):
        modules[name] = Leaf()
    assert len(modules) == 0


def test_lists_hold_parameters_and_change_like_lists():
    parts = ModuleList([Parameter("a"), Leaf()])
    parts.insert(0, Parameter("b"))
    parts.extend([Parameter("c")])
    assert [getattr(part, "data", "module") for part in parts] == ["b", "a", "module", "c"]
    assert [name for name, _ in parts.named_parameters()][:2] == ["0", "1"]
    parts[1] = Parameter("d")
    del parts[2]
    assert [part.data for part in parts] == ["b", "d", "c"]
    assert [part.data for part in parts[1:]] == ["d", "c"]
    assert parts[-1].data == "c"
    assert parts[0] in parts
    with pytest.raises(ModuleError, match="a ModuleList holds modules and parameters, not a str"):
        parts.append("text")
    assert len(parts) == 3


def test_dicts_hold_parameters_and_change_like_dicts():
    parts = ModuleDict({"prompt": Parameter("a")})
    parts.update({"echo": Leaf(), "tone": Parameter("b")})
    assert list(parts) == list(parts.keys()) == ["prompt", "echo", "tone"]
    assert [name for name, _ in parts.items()] == list(parts)
    assert {p.data for p in parts.values() if isinstance(p, Parameter)} == {"a", "b"}
    assert parts.pop("prompt").data == "a"
    assert "prompt" not in parts
    parts["echo"] = Parameter("c")
    assert len(parts) == 2
    parts.clear()
    assert (len(parts), parts.parameters()) == (0, [])
    with pytest.raises(KeyError):
        parts["tone"]
    with pytest.raises(ModuleError, match="a ModuleDict holds modules and parameters, not a int"):
        parts["n"] = 3


def test_lists_and_dicts_are_those_of_the_standard_library_and_stay_modules():
    parts = ModuleList([Parameter("a"), Parameter("b"), Parameter("c")])
    parts.reverse()
    assert [part.data for part in parts] == ["c", "b", "a"]
    assert parts.pop().data == "a"
    parts += [Parameter("d")]
    assert parts.index(parts[2]) == 2
    parts[0:2] = [Parameter("e")]
    assert [(name, p.data) for name, p in parts.named_parameters()] == [("0", "e"), ("1", "d")]
    named, other = ModuleDict({"a": parts}), ModuleDict({"a": parts})
    assert named.get("b") is None
    assert named != other and len({named, other}) == 2
    assert bool(Sequential(ModuleList())) and not ModuleDict()
    with pytest.raises(KeyError):
        del named["b"]
