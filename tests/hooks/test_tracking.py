"""MLflow may fail in any way: it costs tracking and never a run."""

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import mlflow  # noqa: F401 (its import, of seconds, is no part of what is timed below)
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from amodal_pipeline.hooks import store
from amodal_pipeline.hooks.runs import TrackedRuns, headlines
from amodal_pipeline.hooks.tracking import TrackingHook


def double(value):
    return 2 * value


def run(hook, project, between=lambda: None, **parameters):
    """What Kedro does with a pipeline of two nodes, one after the other."""
    first = node(double, "params:orcnn.value", "a", name="first", namespace="orcnn")
    second = node(lambda a: (between(), double(a))[1], "a", "b", name="second")
    catalog = DataCatalog({"parameters": MemoryDataset({"orcnn": {"value": 1}} | parameters)})
    hook.after_context_created(SimpleNamespace(project_path=project))
    hook.before_pipeline_run({"run_id": "now"}, Pipeline([first, second]), catalog)
    values = {"params:orcnn.value": 1}
    for each in (first, second):
        inputs = {name: values[name] for name in each.inputs}
        hook.before_node_run(each, inputs)
        values |= each.run(inputs)
        hook.after_node_run(each)
        for name in each.outputs:
            catalog[name] = MemoryDataset()
            hook.after_dataset_saved(name, values[name], each)
    hook.after_pipeline_run()
    return values["b"]


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.fixture
def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_server_that_is_not_there_costs_seconds_and_a_warning(
    free_port, tmp_path, caplog, monkeypatch
):
    uri = f"http://me:secret@127.0.0.1:{free_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    start = time.monotonic()
    assert run(TrackingHook(), tmp_path) == 4
    assert time.monotonic() - start < store.CHECKED_WITHIN + 5
    (said,) = warnings(caplog)
    assert "continues without tracking" in said and "tracking=false" in said
    assert f"127.0.0.1:{free_port}" in said and "secret" not in said


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(store, "CHECKED_WITHIN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert run(TrackingHook(), tmp_path) == 4
        assert time.monotonic() - start < 10
    (said,) = warnings(caplog)
    assert "no answer within 0.5 seconds" in said and "continues without tracking" in said


class Server:
    """As much of MLflow's server as a run needs, which can die, or refuse what is logged."""

    def __init__(self):
        self.asked: list[str] = []
        self.refuses: tuple[str, ...] = ()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.answer(self)

            do_GET = do_POST  # noqa: N815 (the names are those of the standard library)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, handler):
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        asked = handler.path.partition("?")[0].removeprefix("/api/2.0/mlflow/")
        self.asked.append(asked)
        number = self.asked.count("runs/create")
        info = {"run_id": f"run{number}", "experiment_id": "7", "artifact_uri": "file:///nowhere"}
        answers = {
            "experiments/get-by-name": {"experiment": {"experiment_id": "7", "name": "x"}},
            "runs/create": {"run": {"info": info, "data": {}}},
        }
        body, status = answers.get(asked, {}), 200
        if asked in self.refuses:
            body, status = {"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}, 400
        body = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def die(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    # Not to wait for a second between tries.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield server
    server.die()


def test_a_server_that_dies_in_the_middle_costs_tracking_only(server, tmp_path, caplog, capsys):
    assert run(TrackingHook(), tmp_path, between=server.die) == 4
    assert server.asked.count("runs/create") == 2  # the parent and orcnn
    (said,) = warnings(caplog)
    assert "does not answer any more" in said and "continues without tracking" in said
    assert "Compare runs" not in capsys.readouterr().out


def test_what_a_server_refuses_is_a_gap_and_the_runs_are_closed(server, tmp_path, caplog, capsys):
    server.refuses = ("runs/log-batch",)
    assert run(TrackingHook(), tmp_path) == 4
    (said,) = warnings(caplog)
    assert "too long" in said and "incomplete" in said
    assert server.asked.count("runs/update") == server.asked.count("runs/create") >= 2
    assert f"{server.uri}/#/experiments/7/" in capsys.readouterr().out


def test_nothing_is_asked_of_mlflow_when_tracking_is_off(server, tmp_path):
    assert run(TrackingHook(), tmp_path, tracking=False) == 4
    assert not server.asked


def open_runs(database):
    return TrackedRuns(f"sqlite:///{database}", "scenes", None, "parent", {"method": "none"})


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """A new mlflow.db that runs of two processes open at the same moment."""
    database = tmp_path_factory.mktemp("raced") / "mlflow.db"
    forked = multiprocessing.get_context("fork")  # MLflow is imported already
    together, answers = forked.Barrier(2), forked.Queue()

    def start():
        together.wait()
        try:
            opened = open_runs(database)
            answers.put((opened.link, opened.parent))
        except Exception as error:
            answers.put(error)

    processes = [forked.Process(target=start) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=250) for _ in processes]
    for process in processes:
        process.join()
    return database, found


def test_first_runs_that_race_on_creating_the_database_all_work(raced):
    _, ((link, parent), (other_link, other_parent)) = raced
    assert link == other_link and parent != other_parent  # in one experiment


def test_runs_of_a_killed_process_of_this_host_are_closed_at_the_next_start(raced):
    database, left = raced
    opened = open_runs(database)
    client = opened.client
    # Those of the two processes of the race, which have ended without a word.
    assert {client.get_run(parent).info.status for _, parent in left} == {"KILLED"}
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    changes = {
        "killed": {"pid": str(gone.pid)},
        "reused": {"process_started": "12.5"},  # the number of a process that is another one now
        "elsewhere": {"host": "another", "pid": str(gone.pid)},
        "alive": {},
    }
    runs = {name: opened.open(name, tags) for name, tags in changes.items()}
    opened.log_history(runs["killed"], [{"iteration": 1, "loss": 0.5}])
    open_runs(database)
    status = {name: client.get_run(run).info.status for name, run in runs.items()}
    assert status == {
        "killed": "KILLED",
        "reused": "KILLED",
        "elsewhere": "RUNNING",
        "alive": "RUNNING",
    }
    (loss,) = client.get_metric_history(runs["killed"], "train/loss")
    assert client.get_run(runs["killed"]).info.end_time == loss.timestamp
    assert client.get_run(opened.parent).info.status == "RUNNING"


def test_sigterm_ends_the_runs_as_killed_and_says_how_it_goes_on(raced, tmp_path):
    database, _ = raced
    program = f"""
        import os, signal
        from tests.hooks.test_tracking import run, TrackingHook
        from amodal_pipeline.hooks import InterruptHook
        from kedro.io import DataCatalog, MemoryDataset
        interrupts = InterruptHook()
        interrupts.before_pipeline_run(DataCatalog({{"parameters": MemoryDataset({{}})}}))
        stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
        run(TrackingHook(), {str(tmp_path)!r}, between=stop, dataset="stopped")
    """
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "Stopped by SIGTERM. Run the same command again" in done.stderr
    client = store.connect(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("stopped").experiment_id
    status = {r.data.tags.get("method"): r.info.status for r in client.search_runs([experiment])}
    assert status == {None: "KILLED", "orcnn": "FINISHED"}  # orcnn's only node was through


def test_headlines_have_plain_names_by_one_protocol_each():
    def row(protocol, metric, value, category="all"):
        return {"protocol": protocol, "metric": metric, "value": value, "category": category}

    table = pd.DataFrame(
        [
            row("coco", "AP_amodal", 40.0),
            row("coco", "AP_amodal", 90.0, category="cup"),
            row("orcnn", "AP_amodal", 30.0),
            row("orcnn", "AP_both", float("nan")),
            row("completion", "mIoU_occluded", 20.0),
            row("completion", "IoU_dataset", 10.0),
        ]
    )
    assert headlines(table) == {"AP_amodal": 40.0, "mIoU_occluded": 20.0}
    assert headlines(table, ["orcnn/AP_amodal"]) == {
        "AP_amodal": 40.0,
        "orcnn.AP_amodal": 30.0,
        "mIoU_occluded": 20.0,
    }


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:////a/mlflow.db", "http://127.0.0.1:5000/#/experiments/3/runs"),
        ("https://me:secret@mlflow.example/at/", "https://mlflow.example/at/#/experiments/3/runs"),
    ],
)
def test_the_link_opens_the_runs_of_the_experiment(uri, expected):
    assert store.link(uri, "3") == f"{expected}?workflowType=machine_learning"
    assert store.link("databricks", "3") is None
