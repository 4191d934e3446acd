"""What a signal does to a run."""

import multiprocessing
import os
import signal
import time

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import node

from amodal_pipeline.hooks import InterruptHook
from amodal_pipeline.methods.checkpoints import Fingerprint
from amodal_pipeline.training.state import StateCard

TRAIN = node(lambda folder: folder, "folder", "b", name="train", namespace="orcnn", tags="training")
START = node(lambda folder: folder, "params:folders.jobs.mask_rcnn", "start", name="start")


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


@pytest.fixture
def hook():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hook = InterruptHook()
    yield hook
    for number, handler in before.items():
        signal.signal(number, handler)


def begin(hook, **parameters):
    hook.before_pipeline_run(DataCatalog({"parameters": MemoryDataset(parameters)}))


def at_iteration(folder, iteration):
    place = folder / f"state-{iteration:09d}"
    place.mkdir(parents=True)
    card = StateCard(iteration=iteration, fingerprint=Fingerprint(parts={}))
    (place / "state.json").write_text(card.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_says_where_the_training_goes_on(hook, tmp_path, capsys, number, error):
    before = signal.getsignal(number)
    begin(hook)
    hook.before_node_run(TRAIN, {"params:folders.jobs.orcnn": at_iteration(tmp_path / "orcnn", 40)})
    with pytest.raises(error) as raised:
        os.kill(os.getpid(), number)
    assert capsys.readouterr().err.strip() == (
        f"Stopped by {number.name}. Run the same command again: orcnn continues at iteration 40."
    )
    assert error is KeyboardInterrupt or raised.value.code == 143
    assert signal.getsignal(number) is before  # a second one ends the process at once


def test_a_training_of_what_comes_before_is_found_by_its_history(hook, tmp_path, capsys):
    begin(hook, restart=True)
    models = tmp_path / "models"
    (at_iteration(models / "finished", 9) / "history.jsonl").write_text("")
    os.utime(models / "finished" / "history.jsonl", (1, 1))
    hook.before_node_run(START, {"params:folders.models": models})
    (at_iteration(models / "mask_rcnn", 20) / "history.jsonl").write_text("")
    os.utime(models / "mask_rcnn" / "history.jsonl", (2**33, 2**33))
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    said = capsys.readouterr().err
    assert "again without restart=true: mask_rcnn continues at iteration 20." in said


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (True, "orcnn starts from the beginning, because no state was saved yet."),
        (False, "finished steps are kept."),
    ],
)
def test_without_a_state_nothing_is_promised(hook, tmp_path, capsys, training, expected):
    begin(hook)
    if training:
        hook.before_node_run(TRAIN, {"params:folders.jobs.orcnn": tmp_path / "orcnn"})
    else:
        hook.before_node_run(START, {"params:folders.jobs.mask_rcnn": tmp_path})
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    assert f"Run the same command again: {expected}" in capsys.readouterr().err


def test_signals_do_what_they_did_after_a_run_and_ignored_ones_stay_ignored(hook):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as after nohup
    before = signal.getsignal(signal.SIGTERM)
    begin(hook)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) not in (before, signal.SIG_DFL)
    hook.after_pipeline_run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_workers_that_die_of_the_same_signal_do_not_hide_why_the_run_ends(hook):
    def as_the_loader_of_torch_does(number, frame):
        raise RuntimeError("a worker is killed by signal: Terminated")

    signal.signal(signal.SIGCHLD, as_the_loader_of_torch_does)
    begin(hook)
    with pytest.raises(SystemExit):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGCHLD)


def test_a_forked_worker_dies_of_the_signal_without_a_word(hook, capfd):
    begin(hook)
    forked = multiprocessing.get_context("fork")
    there = forked.Event()
    worker = forked.Process(target=lambda: (there.set(), time.sleep(60)))
    worker.start()
    assert there.wait(30)
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == -signal.SIGTERM
    assert "Stopped" not in capfd.readouterr().err
