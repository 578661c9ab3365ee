import inspect
from typing import get_args

from coordinator import events
from coordinator.supervisor import Supervisor


def test_the_loop_knows_every_event():
    acted_on = inspect.getsource(Supervisor._act)
    for event in get_args(events.Event):
        assert f"case {event.__name__}(" in acted_on
