"""Pictures of a run: which are drawn, and that they are pictures."""

import matplotlib
import pytest

from slif_jax.plots import plot_run

matplotlib.use("Agg")


def row(epoch, *, valid=True, kept=None, **parts):
    return {
        "epoch": epoch,
        "loss": {"loss": 1.0 / epoch, "recommendation": 0.5 / epoch, "consistency": 0.0, **parts},
        "valid": {"recall@20": 0.1 * epoch, "ndcg@20": 0.05 * epoch} if valid else {},
        "correlation_kept": kept,
    }


@pytest.fixture
def drawn(monkeypatch):
    """The lines of each picture by its title: label, x and y."""
    import matplotlib.pyplot as plt

    pictures = {}
    close = plt.close

    def look(figure):
        axes = figure.axes[0]
        pictures[axes.get_title()] = {
            line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()
        }
        close(figure)

    monkeypatch.setattr(plt, "close", look)
    yield pictures
    assert not plt.get_fignums()  # none is left open


def plot(rows, folder, **options):
    return plot_run(rows, folder, **{"metric": "recall@20", "best_epoch": 2, **options})


def test_every_picture_of_a_run(tmp_path, drawn):
    folder = tmp_path / "new" / "plots"
    files = plot([row(1), row(2, valid=False, kept=0.25), row(3, kept=0.75, consistency=0.1)], folder)
    assert [file.name for file in files] == ["loss.png", "validation.png", "correlation.png"]
    assert sorted(folder.iterdir()) == sorted(files)
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG\r\n")
    losses, validation, kept = drawn.values()
    assert set(losses) == {"loss", "recommendation", "consistency"}
    assert losses["loss"] == ([1, 2, 3], [1.0, 0.5, 1 / 3])
    assert validation["recall@20"] == ([1, 3], [0.1, 0.1 * 3])
    assert validation["best epoch 2"][0] == [2, 2]
    assert set(validation) == {"recall@20", "ndcg@20", "best epoch 2"}
    assert kept == {"edges kept": ([2, 3], [0.25, 0.75])}


def test_parts_of_the_loss_that_stay_zero_are_left_out(tmp_path, drawn):
    plot([row(1), row(2)], tmp_path)
    assert set(drawn["Training loss and its parts"]) == {"loss", "recommendation"}


def test_one_epoch_without_validation_or_self_loop(tmp_path):
    files = plot([row(1, valid=False)], tmp_path, best_epoch=1)
    assert [file.name for file in files] == ["loss.png"]


def test_the_metric_that_picked_is_drawn_once(tmp_path, drawn):
    plot([row(1), row(2)], tmp_path, metric="ndcg@20")
    assert set(drawn["Validation"]) == {"ndcg@20", "best epoch 2"}
