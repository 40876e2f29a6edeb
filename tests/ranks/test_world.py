from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

import sparsecc
from sparsecc.errors import InputError, UserError
from sparsecc.ranks.world import Lost, World, _store, world


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun tells the only process of a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    _store.cache_clear()
    yield
    _store.cache_clear()


@pytest.mark.usefixtures("alone")
def test_a_job_of_one_process_is_one_process() -> None:
    with sparsecc.spread() as now:
        assert (now.rank, now.size, now.leads) == (0, 1, True)
        assert world() is now
        assert now.exchange("here", "mine") == ["mine"]
        assert now.group is not None
        tensors = {"x": torch.ones(2)}
        assert list(now.in_turn("here", tensors)) == [tensors]
    assert now.group is None  # it would abort a process that ends with it
    assert world() == World()
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone")
def test_errors_pass_and_the_job_ends() -> None:
    with pytest.raises(InputError, match="holds sand"), sparsecc.spread():
        raise InputError("holds sand")
    assert world() == World()
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone")
def test_a_group_that_is_there_stays() -> None:
    dist.init_process_group("gloo")
    try:
        with sparsecc.spread() as now:
            assert now.group is not dist.group.WORLD
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_outside_of_a_job_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    _store.cache_clear()
    with pytest.raises(UserError, match="in no job of torchrun"), sparsecc.spread():
        pass


def test_a_rank_that_was_killed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:31337. Check the logs.\n")

    monkeypatch.setattr(dist, "all_gather_object", gone)
    two = World(0, 2, object())
    with pytest.raises(Lost, match=r"a process of the job has ended.*closed by peer \[127.0.0.1\]:31337$"):
        two.exchange("here", None)
    error = InputError("mine")
    assert two.fail(error) is error


def test_a_search_that_measures_times_is_no_work_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.autotune.entry.world", lambda: World(0, 2))
    with pytest.raises(UserError, match="tune: measures times, and runs in one process"):
        sparsecc.tune("x.onnx", records="x.db")
