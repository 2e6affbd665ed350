"""Pictures of a run: which are drawn, and that they are pictures."""

import matplotlib
import numpy as np
import pytest

from slif_jax.plots import plot_run, run_figures

matplotlib.use("Agg")


def row(epoch, *, valid=True, kept=None, **parts):
    return {
        "epoch": epoch,
        "loss": {"loss": 1.0 / epoch, "recommendation": 0.5 / epoch, "consistency": 0.0, **parts},
        "valid": {"recall@20": 0.1 * epoch, "ndcg@20": 0.05 * epoch} if valid else {},
        "correlation_kept": kept,
    }


def drawn(rows, metric="recall@20"):
    """The lines of each picture by its name: label, x and y."""
    return {
        name: {
            line.get_label(): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
            for line in figure.axes[0].lines
        }
        for name, figure in run_figures(rows, metric=metric, best_epoch=2).items()
    }


def test_every_picture_of_a_run(tmp_path):
    rows = [row(1), row(2, valid=False, kept=0.25), row(3, kept=0.75, consistency=0.1)]
    folder = tmp_path / "new" / "plots"
    files = plot_run(rows, folder, metric="recall@20", best_epoch=2)
    assert [file.name for file in files] == ["loss.png", "validation.png", "correlation.png"]
    assert sorted(folder.iterdir()) == sorted(files)
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG\r\n")
    losses, validation, kept = drawn(rows).values()
    assert set(losses) == {"loss", "recommendation", "consistency"}
    assert losses["loss"] == ([1, 2, 3], [1.0, 0.5, 1 / 3])
    assert validation["recall@20"] == ([1, 3], [0.1, 0.1 * 3])
    assert validation["best epoch 2"][0] == [2, 2]
    assert set(validation) == {"recall@20", "ndcg@20", "best epoch 2"}
    assert kept == {"edges kept": ([2, 3], [0.25, 0.75])}


def test_parts_of_the_loss_that_stay_zero_are_left_out():
    assert set(drawn([row(1), row(2)])["loss"]) == {"loss", "recommendation"}


def test_one_epoch_without_validation_or_self_loop(tmp_path):
    files = plot_run([row(1, valid=False)], tmp_path, metric="recall@20", best_epoch=1)
    assert [file.name for file in files] == ["loss.png"]
    assert plot_run([], tmp_path / "none", metric="recall@20", best_epoch=1) == []


def test_the_metric_that_picked_is_drawn_once():
    assert set(drawn([row(1), row(2)], metric="ndcg@20")["validation"]) == {"ndcg@20", "best epoch 2"}


@pytest.mark.parametrize("metric", ["recall@20", "ndcg@20"])
def test_no_program_wide_state_is_kept(metric):
    import matplotlib.pyplot as plt

    drawn([row(1), row(2)], metric)
    assert not plt.get_fignums()
