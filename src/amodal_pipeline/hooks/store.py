"""Connection to the MLflow store: made within seconds, or given up with a reason."""

from __future__ import annotations

import getpass
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CHECKED_WITHIN = 10.0  # seconds within which a store must answer
LOCAL_PAGE = "http://127.0.0.1:5000"  # where `make ui` shows the runs of mlflow.db
# With MLflow's own limits a server that is down costs four minutes. Values that the user has set
# are kept. The timeout also applies to uploads.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # one link per run, not two per child
}
_CREATED_WITHIN = 300.0  # seconds to wait for another process to create a new mlflow.db


def uri_of(project: Path) -> str:
    """Return the address of the store: MLFLOW_TRACKING_URI, or mlflow.db in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project / 'mlflow.db'}"


def connect(uri: str) -> MlflowClient:
    """Return a client of a store, after checking that the store answers.

    The tables of a new SQLite file are created under a lock, because two processes that create them
    at the same time both fail.

    Raises:
        TimeoutError: the store does not answer within 10 seconds.
        Exception: MLflow's error if the store cannot be reached.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from filelock import FileLock
    from mlflow import MlflowClient

    # Our own single warning replaces their messages about start, retries and failures.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

    def answering() -> MlflowClient:
        client = MlflowClient(uri)  # connects to a database, and creates its tables
        check(client)
        return client

    file = uri.removeprefix("sqlite:///").partition("?")[0]
    if uri.startswith("sqlite:///") and file not in ("", ":memory:"):
        # Without a deadline, because on a busy machine creating the tables takes more than 10 s.
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=_CREATED_WITHIN):
            return answering()
    return within(CHECKED_WITHIN, answering)


def check(client: MlflowClient) -> None:
    """Check with a small request that the store answers; raises MLflow's error if not."""
    client.search_experiments(max_results=1)


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, or raise its error.

    Raises:
        TimeoutError: ``work`` takes longer; it continues in a daemon thread.
    """
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()

    def answer() -> None:
        try:
            answers.put((work(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if error:
        raise error
    return value


def experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Return the id of an experiment, which is created if needed.

    Args:
        client: of the store.
        name: of the experiment.
        artifacts: folder of a new experiment's files; None: the store's default.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException:
            # Another process may have created it in the meantime.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def process_tags() -> dict[str, str]:
    """Return tags with the user, host and process of a run."""
    import psutil

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        user = str(os.getuid())
    return {
        "mlflow.user": user,
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "process_started": f"{psutil.Process().create_time():.2f}",
    }


def close_left_over(client: MlflowClient, experiment: str) -> None:
    """End the runs of an experiment that killed processes of this host have left open.

    Their status becomes KILLED, their end the time of the last loss of the run or its children.
    """
    query = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    left = [r for r in client.search_runs([experiment], query, max_results=1000) if _is_dead(r)]
    last: dict[str, int] = {}
    for run in left:
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        end = max([run.info.start_time, *(loss.timestamp for loss in losses)])
        for name in (run.info.run_id, run.data.tags.get("mlflow.parentRunId", "")):
            last[name] = max(end, last.get(name, 0))
    for run in left:
        client.set_terminated(run.info.run_id, "KILLED", last[run.info.run_id])


def _is_dead(run: Run) -> bool:
    import psutil

    tags = run.data.tags
    try:
        process = psutil.Process(int(tags["pid"]))
        # Another process may have been given the same id since.
        same = abs(process.create_time() - float(tags["process_started"])) < 5
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, ValueError):
        return False  # unknown, so the run is left open


def link(uri: str, experiment: str) -> str | None:
    """Return the link to an experiment's runs; None if the store has no web page.

    Without ``workflowType``, MLflow opens its page for language models.
    """
    place = urlsplit(uri)
    page = f"{place.scheme}://{shown(uri)}{place.path.rstrip('/')}"
    if place.scheme not in ("http", "https"):
        if place.scheme != "sqlite":
            return None
        page = LOCAL_PAGE
    return f"{page}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def viewer(project: Path) -> str:
    """Return the command that shows the runs of mlflow.db: a clone has a shorter one."""
    if (project / "Makefile").exists():
        return "make ui"
    return "mlflow ui --backend-store-uri sqlite:///mlflow.db"


def shown(uri: str) -> str:
    """Return a store's host and port, or its file, without the password in its address."""
    place = urlsplit(uri)
    return place.netloc.rpartition("@")[2] or place.path or uri


def without_password(text: str, uri: str) -> str:
    """Return a message without the user name and password of a store's address."""
    access, at, _ = urlsplit(uri).netloc.rpartition("@")
    return text.replace(access + at, "") if at else text


def print_links() -> None:
    """Print the link of each experiment, for ``make ui``."""
    uri = uri_of(Path.cwd())
    try:
        experiments = connect(uri).search_experiments(order_by=["last_update_time DESC"])
    except Exception as error:
        reason = without_password(str(error), uri)
        sys.exit(f"the runs in {shown(uri)} cannot be read: {reason}")
    for experiment in experiments:
        if experiment.name != "Default":
            print(f"{experiment.name}: {link(uri, experiment.experiment_id)}")
