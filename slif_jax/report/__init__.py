"""A run or a study as one HTML page that stands alone."""

from pathlib import Path

from slif_jax.report.run import run_report
from slif_jax.report.study import study_report
from slif_jax.workdir import Workdir, WorkdirError

__all__ = ["report", "run_report", "study_report"]


def report(workdir: str | Path, *, data_dir: str | None = None, num_users: int = 3) -> str:
    """The page of what is in a folder.

    Args:
      workdir: folder of a finished run or study.
      data_dir: where fetched data sets are kept; None is the user's cache folder.
      num_users: users to show with their history and recommendations; 0 does not load the model.

    Returns:
      HTML.

    Raises:
      WorkdirError: if the folder holds neither, it is not finished, or its files are damaged.
    """
    folder = Workdir(workdir)
    try:
        return _page(folder, data_dir, num_users)
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # numbers or parts that are not there
        what = f"{type(error).__name__}: {error}"
        raise WorkdirError(
            f"{folder.path}: a .json file in it is damaged, or of another version ({what}). Run its command again."
        ) from error


def _page(folder: Workdir, data_dir: str | None, num_users: int) -> str:
    study = folder.read_json("study.json")
    if study is not None:
        if not study["done"]:
            raise WorkdirError(f"{folder.path} holds a study that is not finished: run its command again first.")
        return study_report(folder, study)
    if folder.stored_config() is None:
        raise WorkdirError(f"{folder.path} holds neither a run nor a study. Train first: python -m experiments.train.")
    result = folder.read_json("result.json")
    if result is None:
        raise WorkdirError(f"{folder.path} holds a run that is not finished: it has no result.json. Resume it first.")
    return run_report(folder, result, data_dir=data_dir, num_users=num_users)
