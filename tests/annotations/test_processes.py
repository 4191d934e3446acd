"""Locks that die with who holds them, and workers that die with who started them."""

import os
import signal
import time
from pathlib import Path

import pytest
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

from amodal_pipeline.annotations import processes
from amodal_pipeline.annotations.processes import HeldError, end_with_parent, lock, working

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


def killed(work) -> None:
    """Do ``work`` in a process of its own, which is killed at its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_lock_names_who_holds_it_and_is_gone_afterwards(tmp_path):
    path = tmp_path / ".lock"
    with lock(path):
        with pytest.raises(HeldError, match=f"process {os.getpid()} on "), lock(path):
            pass
        assert path.exists()
    assert not path.exists()
    with lock(path):
        pass


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path):
    path = tmp_path / ".lock"

    def die():
        with lock(path):
            os.kill(os.getpid(), signal.SIGKILL)

    killed(die)
    assert "process" in path.read_text()
    with lock(path):
        assert f"process {os.getpid()} on" in path.read_text()


def test_a_worker_that_outlives_a_killed_process_does_not_hold_its_lock(tmp_path):
    path, reading = tmp_path / ".lock", os.pipe()

    def die():
        with lock(path):
            if os.fork() == 0:
                os.read(reading[0], 1)  # until the test is through
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    killed(die)
    try:
        with lock(path):
            pass
    finally:
        os.write(reading[1], b"x")


def test_workers_end_with_a_killed_parent():
    reading, writing = os.pipe()

    def die():
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            end_with_parent(parent)
            time.sleep(60)
        os.write(writing, f"{pid}".encode())

    killed(die)
    worker = int(os.read(reading, 20))
    for _ in range(100):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived the process that it worked for by ten seconds")


def test_workers_of_joblib_begin_in_this_folder_and_end_with_this_process(tmp_path, monkeypatch):
    with working(3):
        backend, count = get_active_backend()
    assert count == 3
    assert backend.backend_kwargs["initargs"] == (os.getpid(), Path.cwd())
    begun = []
    monkeypatch.setattr(processes, "end_with_parent", begun.append)
    monkeypatch.setattr(os, "chdir", begun.append)
    backend.backend_kwargs["initializer"](7, tmp_path)
    assert begun == [tmp_path, 7]
    monkeypatch.undo()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with working(2):
            found = Parallel()(delayed(Path.cwd)() for _ in range(2))
        assert found == [tmp_path / name] * 2


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
