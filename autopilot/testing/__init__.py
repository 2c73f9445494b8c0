"""Contract suites for stores and memories, and a scripted optimizer: for your own tests.

A suite is a class. Derive it, say how one of yours is made, and pytest runs every test of the
contract on it; the suites run here on the in-memory and on the git implementation alike.

    class TestMyStore(StoreContract):
        def make_store(self, folder):
            return MyStore(folder)
"""

from autopilot.testing.memories import MemoryContract
from autopilot.testing.scripted import ScriptedOptimizer
from autopilot.testing.stores import StoreContract

__all__ = ["MemoryContract", "ScriptedOptimizer", "StoreContract"]
