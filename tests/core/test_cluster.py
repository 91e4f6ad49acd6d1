"""A cluster that is not there, and what a worker's mistake says here."""

import importlib.util
import sys
import time

import pytest

from core import cluster
from core.errors import InputError

needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed (extra cluster)")


@needs_ray
def test_a_cluster_that_does_not_answer_is_refused_at_once(monkeypatch):
    start = time.monotonic()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        refusal = f"Ray's cluster at {address} cannot be reached: Connection refused.\nStart it, or unset RAY_ADDRESS."
        with pytest.raises(InputError) as refused, cluster.connected("theory"):
            pass
        assert str(refused.value) == refusal
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("flow", ["theory", "empirical"])
def test_without_ray_its_extra_is_named(flow, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    told = rf"--engine ray needs Ray\.\n.*\[{flow},cluster\]"
    with pytest.raises(InputError, match=told), cluster.connected(flow):
        pass


@needs_ray
@pytest.mark.parametrize("cause", [InputError("no such file.\nName another."), ValueError("a bug")])
def test_a_workers_mistake_in_the_input_is_raised_as_it_was_there_and_a_bug_is_left_as_one(cause, monkeypatch):
    import ray
    from ray.exceptions import RayTaskError

    failed = RayTaskError("work", "its traceback", cause).as_instanceof_cause()
    with monkeypatch.context() as patch, pytest.raises(type(cause)) as raised:
        patch.setattr(ray, "get", lambda reference: (_ for _ in ()).throw(failed))
        cluster.result(ray, None)
    is_input = isinstance(cause, InputError)
    assert (raised.value is cause) == is_input and isinstance(raised.value, RayTaskError) != is_input
