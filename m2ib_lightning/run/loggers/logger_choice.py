"""The loggers that ``trainer.logger`` names. All are Lightning's own; none uses the network unless it is asked to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.run.loggers.described_tensorboard import DescribedTensorBoard

LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")
"""Names of the loggers."""

_OPTIONAL = ("wandb", "mlflow")
"""Loggers whose package is an optional group of the same name."""

_SERVER = os.environ.get("MLFLOW_TRACKING_URI")
"""Server of MLflow that the user names. It is read here because MLflow sets the variable itself at the first value."""

_PROJECT = "m2ib_lightning"
"""Name of the project of W&B, and of the experiment of MLflow, unless their own variables name another."""


def logger_names(requested: Any) -> tuple[str, ...]:
    """Return the names of the loggers that a value of ``trainer.logger`` asks for.

    Args:
        requested: a name, a list of names, ``none`` or false for no logger, null or true for TensorBoard.

    Raises:
        M2IBError: if a name does not exist, or the package of a logger is not installed.
    """
    if requested is None or requested is True:
        return ("tensorboard",)
    if requested is False or requested == "none" or requested == []:
        return ()
    names = [requested] if isinstance(requested, str) else requested
    if not isinstance(names, list | tuple) or len(set(map(str, names))) < len(names):
        raise M2IBError(f"trainer.logger must be a name or a list of names, each once, got {requested!r}. {_CHOICES}")
    for name in names:
        if name not in LOGGERS:
            raise M2IBError(f"trainer.logger={name!r} is no logger. {_CHOICES}{nearest(str(name), LOGGERS)}")
        if name in _OPTIONAL and find_spec(name) is None:
            raise M2IBError(f"trainer.logger={name} needs {name}: pip install 'm2ib_lightning[{name}]'")
    return tuple(names)


_CHOICES = f"There is {', '.join(LOGGERS)}, a list such as [tensorboard,csv], and none."


def make_loggers(names: Sequence[str], run: Path, start: str, rank: int = 0) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        names: names of the loggers, from ``logger_names``.
        run: the run directory.
        start: name of this start of the run. A resumed run has several, and each has its own CSV file.
        rank: rank of this process. Only rank 0 gets those of W&B and MLflow, which write as soon as they are made.

    Raises:
        M2IBError: if an installed package is too old for Lightning.
    """
    try:
        return [_make(name, run, start) for name in names if rank == 0 or name not in _OPTIONAL]
    except ModuleNotFoundError as error:
        raise M2IBError(f"trainer.logger: Lightning can't use the installed package: {error}") from None


def _make(name: str, run: Path, start: str) -> Logger:
    if name == "tensorboard":
        return DescribedTensorBoard(run, name="tensorboard", version="", default_hp_metric=False)
    if name == "csv":  # Lightning's logger deletes the file of an earlier start, and keeps 100 steps in memory
        return CSVLogger(run, name="csv", version=start, flush_logs_every_n_steps=1)
    if name == "wandb":
        arguments = wandb_arguments(run, start)
        if arguments["offline"]:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        return WandbLogger(**arguments)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return MLFlowLogger(**mlflow_arguments(run, start))


def wandb_arguments(run: Path, start: str) -> dict[str, Any]:
    """Return the arguments of ``WandbLogger``: offline, unless ``WANDB_MODE=online`` is set.

    Args:
        run: the run directory, in whose folder ``wandb/`` the files are.
        start: name of this start of the run.
    """
    return {
        "name": f"{run.name}-{start}",
        "save_dir": str(run),
        "offline": os.environ.get("WANDB_MODE") != "online",
        "project": os.environ.get("WANDB_PROJECT", _PROJECT),
    }


def mlflow_arguments(run: Path, start: str) -> dict[str, Any]:
    """Return the arguments of ``MLFlowLogger``: ``mlflow.db`` in the run directory, unless a server is named.

    ``MLFLOW_TRACKING_URI`` names a server, and ``MLFLOW_EXPERIMENT_NAME`` an experiment.

    Args:
        run: the run directory.
        start: name of this start of the run.
    """
    return {
        "experiment_name": os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        "run_name": f"{run.name}-{start}",
        "tracking_uri": _SERVER or f"sqlite:///{run}/mlflow.db",
        "artifact_location": None if _SERVER else (run / "mlflow").as_uri(),
    }


def curve_places(names: Sequence[str], run: Path, start: str) -> list[str]:
    """Return for each logger where its curves are: a command, or a file.

    Args:
        names: names of the loggers.
        run: the run directory.
        start: name of this start of the run.
    """
    online = os.environ.get("WANDB_MODE") == "online"
    places = {
        "tensorboard": f"tensorboard --logdir {run}",
        "csv": str(run / "csv" / start / "metrics.csv"),
        "wandb": "on W&B's server" if online else f"wandb sync {run}/wandb/offline-run-*",
        "mlflow": _SERVER or f"mlflow ui --backend-store-uri sqlite:///{run}/mlflow.db",
    }
    return [places[name] for name in names]
