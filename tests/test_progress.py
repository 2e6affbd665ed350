"""What a run tells while it runs."""

import re

import pytest

from slif_jax.progress import MODES, make_reporter

ROW = {
    "epoch": 3,
    "loss": {"loss": 0.75, "recommendation": 0.5, "consistency": 0.25, "knowledge": 0.0},
    "valid": {"recall@20": 0.125, "ndcg@20": 0.1},
    "correlation_kept": 0.666,
}


def reporter(mode, *, epochs=10, start=0):
    return make_reporter(mode, epochs=epochs, start=start, metric="recall@20")


def test_a_line_tells_epoch_losses_score_and_drift(capsys):
    with reporter("line") as lines:
        lines.say("hello [world]")
        lines.epoch(ROW, best=0.2)
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first == "hello [world]"
    assert re.fullmatch(
        r"epoch 3/10: loss 0\.7500 \(recommendation 0\.5000, consistency 0\.2500\), "
        r"valid recall@20 0\.1250 \(best 0\.2000\), correlation edges kept 67%, "
        r"\d+\.\d\d s/epoch, at most 0:00:\d\d left",
        second,
    )
    assert err == ""


def test_a_line_leaves_out_what_did_not_happen(capsys):
    with reporter("line") as lines:
        lines.epoch({**ROW, "valid": {}, "correlation_kept": None}, best=-1.0)
    out = capsys.readouterr().out
    assert "valid" not in out
    assert "correlation" not in out
    assert "loss 0.7500" in out


def test_remaining_time_counts_the_epochs_of_this_run_alone(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("slif_jax.progress.time.monotonic", lambda: clock[0])
    with reporter("line", epochs=503, start=1) as lines:
        clock[0] = 120.0  # two epochs in 20 seconds: 500 more take 5000
        lines.epoch(ROW, best=0.2)
    assert "10.00 s/epoch, at most 1:23:20 left" in capsys.readouterr().out


def test_off_is_silent(capsys):
    with reporter("off") as silent:
        silent.say("hello")
        silent.epoch(ROW, best=0.2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "columns",
    [
        "200",
        "80",
    ],
)
def test_a_bar_goes_to_standard_error(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with reporter("bar", start=2) as bar:
        bar.say("hello [world]")
        bar.epoch(ROW, best=0.2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello [world]" in err
    assert "loss 0.7500" in err
    assert "3/10" in err


@pytest.mark.parametrize("terminal", [True, False])
def test_auto_draws_a_bar_on_a_terminal_only(capsys, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with reporter("auto") as chosen:
        chosen.say("hello")
    out, err = capsys.readouterr()
    assert ("hello" in err, "hello" in out) == (terminal, not terminal)


@pytest.mark.parametrize("mode", ["bar", "line", "off"])
def test_errors_pass_through(mode):
    with pytest.raises(KeyError), reporter(mode):
        raise KeyError("inside")


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match=f"`progress` must be one of {', '.join(MODES)}: got 'loud'"):
        reporter("loud")
