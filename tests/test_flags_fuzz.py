"""Odd values of flags: a configuration that can be written and read again, or a line that says what is wrong."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import cli, outputs
from experiments.scaling_tables import read_meshes
from slif_jax.config import Config
from slif_jax.data.errors import DataError
from slif_jax.data.synthetic import from_spec
from slif_jax.meshes import parse_mesh
from slif_jax.protocols import with_rules

FIELDS = [field.name for field in dataclasses.fields(Config)]
VALUES = [
    *("", " ", "0", "-0", "1", "-1", "2", "0.5", "1.0", "-0.5", "1e-400", "1e400", "1e39", "nan", "inf", "-inf", "1_0"),
    *("9" * 20, "0x10", "٣", "²", "true", "none", "all", "None", "auto", "a,b", ",", ",,5", "5,,10", "5,5", "a=b", ":"),
    *("ünïcödé", "\ud800", "\x00", "a\nb", "\x1b[31m", "'", '"', "--width=3", "..", "/", "~", "%s", "{}", "="),
    *("recall@20", "hit@5", "strict", "softmax", "bpr", "features", "interactions,features", "synthetic", "visual"),
]
few = settings(max_examples=100, deadline=None, derandomize=True, database=None)
many = settings(max_examples=20_000, deadline=None, derandomize=True, database=None)
values = st.one_of(st.sampled_from(VALUES), st.text(max_size=8), st.floats().map(str), st.integers().map(str))
command_lines = st.lists(st.tuples(st.sampled_from(FIELDS), values), min_size=1, max_size=3)


def check_config(pairs: list[tuple[str, str]]) -> None:
    defined = flags.FlagValues()
    cli.define_config_flags(defined)
    try:
        defined(["train", *(f"--{name}={value}" for name, value in pairs)])
        config = cli.config_from_flags(defined)
    except flags.Error:
        return
    except ValueError as error:
        assert any(f"`{name}`" in str(error) or f"--{name}" in str(error) for name in FIELDS), error  # noqa: PT017
        return
    stored = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert Config.from_dict(stored) == config


@few
@given(command_lines)
def test_settings(pairs: list[tuple[str, str]]):
    check_config(pairs)


@pytest.mark.fuzz
@many
@given(command_lines)
def test_settings_often(pairs: list[tuple[str, str]]):
    check_config(pairs)


@few
@given(values)
def test_other_texts(text: str):
    for read in (
        parse_mesh,
        lambda text: [parse_mesh(mesh) for mesh in read_meshes(text)],
        lambda text: with_rules("strict", {"list_length": text}),
        lambda text: with_rules("strict", {"round_digits": text}),
        lambda text: with_rules("strict", {"ideal": text}),
        lambda text: with_rules(text, {}),
        lambda text: cli.changed_config(Config(), text, flag="against"),
    ):
        try:
            read(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017


SIZES = ["users", "items", "clusters", "entities", "relations", "mean_degree"]
OTHERS = ["modalities", "missing", "noise", "seed"]
SMALL = ["-1", "0", "3", "7", "0.5", "nan", "inf", "-inf", "", " ", "9" * 20, "٣", "x", "a:1", "a:0", ":3"]


@few
@given(st.lists(st.tuples(st.sampled_from(SIZES + OTHERS), st.sampled_from(SMALL)), max_size=3))
def test_synthetic_data(pairs: list[tuple[str, str]]):
    given_names = [name for name, _ in pairs]
    pairs += [(name, value) for name, value in (("users", "9"), ("items", "8")) if name not in given_names]
    pairs += [("mean_degree", "3"), ("clusters", "2")] if not {"mean_degree", "clusters"} & set(given_names) else []
    try:
        dataset = from_spec("synthetic:" + ",".join(f"{name}={value}" for name, value in pairs))
    except DataError as error:
        assert str(error).startswith("synthetic")  # noqa: PT017
        return
    assert len(dataset.train)


# Lists of ids, and places to write to.


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads --users=FILE or --user=ID."""
    defined = flags.FlagValues()
    for name in ("users", "user"):
        flags.DEFINE_string(name, None, "", flag_values=defined)
    monkeypatch.setattr(outputs.flags, "FLAGS", defined)

    def read(**given: str) -> Any:
        defined.unparse_flags()
        for name in ("users", "user"):
            defined[name].unparse()
        defined(["program", *(f"--{name}={value}" for name, value in given.items())])
        return outputs.read_names("users", "user")

    return read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no id"),
        (b" \n\r\n\t", "names no id"),
        (b"\xff\xfe1\x00", "not UTF-8 text"),
        (b"1\n" * 600, "larger than 0 MiB"),
    ],
)
def test_lists_of_ids_that_are_none(
    names: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
):
    monkeypatch.setattr(outputs, "_MAX_BYTES", 1000)
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        names(users=str(path))


def test_places_that_are_no_lists_of_ids(names: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outputs, "_MAX_BYTES", 1000)
    absent = tmp_path / "absent"
    for place, message in ((tmp_path, "Is a directory"), (absent, "No such file"), ("/dev/zero", "larger")):
        with pytest.raises(ValueError, match=message):
            names(users=str(place))
    with pytest.raises(ValueError, match="--user is empty"):
        names(user=" ")
    with pytest.raises(ValueError, match="not both"):
        names(user="1", users="x")


def test_ids_with_odd_characters(names: Any, tmp_path: Path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa\u2028b\r\nc\x0bd\re\n\n".encode())
    assert [line for line in names(users=str(path)).lines if line] == ["a\u2028b", "c\x0bd", "e"]


def test_places_to_write_to(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for place, kind, message in (
        (tmp_path, IsADirectoryError, "Name a file with --json"),
        (tmp_path / "absent" / "x", FileNotFoundError, "name another --json"),
        (tmp_path / "file" / "x", FileNotFoundError, "is no folder"),
        ("", IsADirectoryError, "is a folder"),
    ):
        with pytest.raises(kind, match=message):
            outputs.target(str(place), "json")
    assert outputs.target(str(tmp_path / "new.json")) == tmp_path / "new.json"


def test_whole_programs(tmp_path: Path):
    """What is refused before anything slow, program by program, in processes side by side."""
    output = f"--output={tmp_path / 'absent' / 'x'}"
    lines = {
        "evaluate": (["--baseline=popularity", "--protocol="], "--protocol is empty"),
        "plan": (["--users=9", "--items=9", "--edges=9", output], "is no folder"),
        "check": (["--dataset=synthetic", f"--json={tmp_path}"], "Name a file with --json"),
        "bench": ([output], "is no folder"),
    }
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"experiments.{name}", *arguments],
            cwd=Path(__file__).resolve().parents[1],
            env={key: value for key, value in os.environ.items() if key != "XLA_FLAGS"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for name, (arguments, _) in lines.items()
    }
    for name, process in started.items():
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 2, errors
        assert errors.startswith("Error: "), name
        assert lines[name][1] in errors
        assert errors.count("\n") == 1
