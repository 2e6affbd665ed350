"""The built-in ml-100k: the recipe on tables small enough to follow, fetching without a network, and the real data."""

import hashlib
import importlib.util
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from slif_jax.data import DataError, fetch, load, movielens, splits

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "datasets"

# Three users; film 9 is liked by one user with too few positives, film 8 is never liked.
LIKED = {10: [1, 2, 3, 4, 5], 2: [1, 2, 3, 4, 267], 7: [1, 9]}
INTER = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
INTER += [f"{user}\t{item}\t{4 + item % 2}\t0" for user, films in LIKED.items() for item in films]
INTER += ["10\t8\t3\t0", "7\t1\t1\t0"]
ITEM = [
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
    "1\tNet, The\t1995\tThriller Sci-Fi",
    "2\tHorseman on the Roof, The (Hussard sur le toit, Le)\t1995\tDrama",
    "3\tLand Before Time III (1994)\tV\tAnimation Children's",
    "4\tEnfer, L'\t1994\tDrama",
    "5\tM\t1931\tunknown",
    "267\tunkonwn\tunkonwn\tunknown",
]
LINK = ["item_id:token\tentity_id:token", "1\tm.one", "2\tm.two", "8\tm.eight"]
KG = ["head_id:token\trelation_id:token\ttail_id:token", "m.one\tacts\tm.z", "m.two\tacts\tm.z", "m.x\trare\tm.two"]
KG += ["m.x\tacts\tm.y", "m.one\tacts\tm.lonely", "m.eight\tnear\tm.one", "m.two\tnear\tm.eight"]
TABLES = {"inter": INTER, "item": ITEM, "link": LINK, "kg": KG, "user": ["user_id:token", "2"]}


def write_tables(folder: Path) -> None:
    folder.mkdir()
    for suffix, lines in TABLES.items():
        (folder / f"ml-100k.{suffix}").write_text("\n".join(lines) + "\n")


@pytest.fixture
def small_recipe(monkeypatch):
    monkeypatch.setattr(movielens, "_MIN_RELATION_TRIPLES", 2)
    monkeypatch.setattr(movielens, "_TEXT_WIDTH", 2)


def test_recipe_by_hand(tmp_path, small_recipe):
    write_tables(tmp_path / "ml-100k")
    data = load("ml-100k", data_dir=tmp_path)
    assert data.user_ids.tolist() == ["2", "10"]
    assert data.item_ids.tolist() == ["1", "2", "3", "4", "5", "267"]
    assert data.item_titles is not None
    assert data.relation_names is not None
    assert data.entity_names is not None
    assert data.item_titles.tolist()[2:] == ["Land Before Time III (1994)", "Enfer, L' (1994)", "M (1931)", "unkonwn"]
    assert [len(part) for part in data.splits.values()] == [6, 2, 2]
    # m.x, m.y and m.lonely have fewer than two neighbours once 'rare' is gone; m.eight is a film nobody liked.
    assert data.entity_names.tolist() == [
        *("m.one", "m.two", "", "", "", ""),
        *("m.eight", "m.z", "decade:1930s", "decade:1990s"),
        *("genre:Animation", "genre:Children's", "genre:Drama", "genre:Sci-Fi", "genre:Thriller"),
    ]
    assert data.relation_names.tolist() == ["acts", "near", "item.genre", "item.decade"]
    freebase = data.triples[data.triples[:, 1] < 2]
    np.testing.assert_array_equal(freebase, [[0, 0, 7], [1, 0, 7], [1, 1, 6], [6, 1, 0]])
    assert (data.triples[:, 1] == 2).sum() == 6
    np.testing.assert_array_equal(
        data.triples[data.triples[:, 1] == 3], [[0, 3, 9], [1, 3, 9], [2, 3, 9], [3, 3, 9], [4, 3, 8]]
    )
    attributes, text = data.features["attributes"], data.features["text"]
    np.testing.assert_array_equal(attributes.present, [True] * 5 + [False])  # 267 has neither genre nor decade
    np.testing.assert_array_equal(attributes.values.sum(axis=1), [3, 2, 3, 2, 1, 0])
    assert text.present.all()


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Net, The", "The Net"),
        ("Horseman on the Roof, The (Hussard sur le toit, Le)", "The Horseman on the Roof (Hussard sur le toit, Le)"),
        ("Enfer, L'", "L' Enfer"),
        ("Cry, the Beloved Country", "Cry, the Beloved Country"),
        ("Paris, Texas", "Paris, Texas"),
        ("Day, Another", "Day, Another"),
    ],
)
def test_articles_move_to_the_front(title, expected):
    assert movielens._ARTICLE.sub(r"\2 \1\3", title) == expected


def test_split_seed(tmp_path, small_recipe):
    write_tables(tmp_path / "ml-100k")
    first, again, other = (load("ml-100k", data_dir=tmp_path, split_seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert first.split_fingerprint != other.split_fingerprint


def test_both_ways_to_split_hold_out_the_same_numbers():
    degrees = np.array([3, 4, 5, 14, 15, 16, 25, 378])
    users = np.repeat(np.arange(8), degrees)
    for parts in (
        splits.split_by_permutation(np.random.default_rng(0), degrees),
        splits.split_by_sorting(np.random.default_rng(0), users, degrees),
    ):
        for code in (1, 2):
            held_out = np.bincount(users[parts == code])
            np.testing.assert_array_equal(held_out, [1, 1, 1, 1, 2, 2, 2, 38])


# Fetching. The network is never used: the wheel is made here, and pip is replaced.


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with the five tables and a file that must not be unpacked; its hash is the expected one."""
    path = tmp_path / "made" / fetch.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for suffix, lines in TABLES.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}", "\n".join(lines) + "\n")
        archive.writestr("recbole/dataset_example/ml-100k/../../../evil.txt", "no")
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def pip(monkeypatch):
    """Replaces pip by a function that can be set, and counts its calls."""
    state = types.SimpleNamespace(calls=[], code=0, stderr="", wheel=None)

    def run(command, **options):
        state.calls.append(command)
        if state.wheel is not None:
            target = Path(command[-2].removeprefix("--dest=")) / fetch.WHEEL
            target.write_bytes(state.wheel.read_bytes())
        return subprocess.CompletedProcess(command, state.code, "", state.stderr)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    return state


def failure(data_dir: Path) -> str:
    with pytest.raises(DataError) as caught:
        fetch.ml_100k_folder(data_dir)
    return str(caught.value)


def test_downloads_once(tmp_path, wheel, pip):
    pip.wheel = wheel
    home = tmp_path / "cache" / "deep"
    folder = fetch.ml_100k_folder(home)
    assert sorted(path.name for path in folder.iterdir()) == sorted(fetch.FILES)
    assert [path.name for path in home.iterdir()] == ["ml-100k"]  # nothing else is left behind
    assert not list(tmp_path.rglob("evil.txt"))
    assert pip.calls[0][:4] == [sys.executable, "-c", fetch._LIMITED_PIP, "download"]
    assert {"--no-deps", "--only-binary=:all:", "recbole==1.2.1"} <= set(pip.calls[0])
    assert fetch.ml_100k_folder(home) == folder
    assert len(pip.calls) == 1


def test_another_process_is_faster(tmp_path, wheel, pip, monkeypatch):
    pip.wheel = wheel
    monkeypatch.setattr(fetch, "_check_hash", lambda path: write_tables(tmp_path / "ml-100k"))
    assert fetch.ml_100k_folder(tmp_path) == tmp_path / "ml-100k"


def test_a_wheel_put_there_by_hand(tmp_path, wheel, pip):
    home = tmp_path / "cache"
    home.mkdir()
    (home / fetch.WHEEL).write_bytes(wheel.read_bytes())
    assert (fetch.ml_100k_folder(home) / "ml-100k.kg").is_file()
    assert not pip.calls


def test_wrong_hash(tmp_path, wheel, pip):
    home = tmp_path / "cache"
    home.mkdir()
    (home / fetch.WHEEL).write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    assert failure(home) == (
        f"{home / fetch.WHEEL}: expected SHA-256 {fetch.WHEEL_SHA256}, got {found}; remove the file and run again."
    )
    assert [path.name for path in home.iterdir()] == [fetch.WHEEL]


def test_no_network(tmp_path, pip):
    pip.code = 1
    pip.stderr = "ERROR: No matching distribution found for recbole==1.2.1\n"
    expected = (
        "ml-100k: cannot download recbole 1.2.1 (No matching distribution found for recbole==1.2.1). "
        f"Put {fetch.WHEEL} at {tmp_path / fetch.WHEEL} and run again; "
        "or use --dataset=synthetic, which needs no network."
    )
    assert failure(tmp_path) == expected
    pip.stderr = "WARNING: Retrying (Retry(total=1))\n" + pip.stderr
    assert "cannot download recbole 1.2.1 (the package index did not answer). Put" in failure(tmp_path)
    pip.stderr = ""
    reason = "No matching distribution found for recbole==1.2.1"
    assert failure(tmp_path) == expected.replace(reason, "pip ended with code 1")
    assert not list(tmp_path.iterdir())


def test_no_pip_and_no_answer(tmp_path, monkeypatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(fetch.subprocess, "run", run)
    assert failure(tmp_path).startswith("ml-100k: no download within 300 seconds. Put recbole")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert failure(tmp_path).startswith("ml-100k: cannot download, this Python has no pip. Put recbole")


def test_an_incomplete_folder_is_left_alone(tmp_path, pip):
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "ml-100k.inter").write_text("mine")
    expected = f"{tmp_path / 'ml-100k'} is there but lacks ml-100k.item, ml-100k.kg, ml-100k.link, ml-100k.user: "
    assert failure(tmp_path) == expected + "move it away, and run again."
    assert not pip.calls


def test_a_wheel_without_the_tables(tmp_path, monkeypatch):
    path = tmp_path / fetch.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recbole/__init__.py", "")
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert failure(tmp_path).startswith(f"{path}: not the expected wheel (")
    monkeypatch.setattr(fetch, "_MAX_BYTES", -1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", "")
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert "ml-100k.inter is larger than" in failure(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [fetch.WHEEL]


def test_a_table_that_is_larger_than_it_declares(tmp_path, monkeypatch):
    path = tmp_path / fetch.WHEEL
    name = "recbole/dataset_example/ml-100k/ml-100k.inter"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(40 << 20))
    content = path.read_bytes()
    size = struct.pack("<I", 40 << 20)
    assert content.count(size) == 2  # in the member and in the directory
    path.write_bytes(content.replace(size, struct.pack("<I", 1000)))
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo(name).file_size == 1000
    assert "not the expected wheel (Bad CRC-32" in failure(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [fetch.WHEEL]


def test_links_in_a_wheel_are_files(tmp_path, wheel, pip, monkeypatch):
    link = zipfile.ZipInfo("recbole/dataset_example/ml-100k/ml-100k.user")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(tmp_path / fetch.WHEEL, "w") as new:
        for name in old.namelist():
            is_link = name == link.filename
            new.writestr(link if is_link else name, "/etc/passwd" if is_link else old.read(name))
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256((tmp_path / fetch.WHEEL).read_bytes()).hexdigest())
    folder = fetch.ml_100k_folder(tmp_path)
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (folder / "ml-100k.user").read_text() == "/etc/passwd"


def test_a_download_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_MAX_WHEEL_BYTES", 1000)
    (tmp_path / fetch.WHEEL).write_bytes(bytes(1001))
    assert "not that wheel; remove it" in failure(tmp_path)
    program = fetch._LIMITED_PIP.replace('runpy.run_module("pip", run_name="__main__", alter_sys=True)', "import sys")
    assert program != fetch._LIMITED_PIP
    program += "open(sys.argv[1], 'wb').truncate(65 << 20)"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "large")], capture_output=True, text=True)
    assert "File too large" in done.stderr


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert failure(tmp_path / "file").startswith(f"ml-100k: cannot write below {tmp_path / 'file'} (")


def test_default_data_dir(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.default_data_dir() == tmp_path / "slif_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.default_data_dir() == tmp_path / ".cache" / "slif_jax"


# The real data.


@pytest.fixture(scope="module")
def real():
    home = fetch.default_data_dir()
    if not all((home / "ml-100k" / name).is_file() for name in fetch.FILES):
        pytest.skip(f"ml-100k was never downloaded to {home}")
    return load("ml-100k")


def test_real_counts(real):
    assert (real.num_users, real.num_items, real.num_entities, real.num_relations) == (938, 1447, 8556, 25)
    assert [len(part) for part in real.splits.values()] == [44265, 5548, 5548]
    assert len(real.triples) == 56322
    text, attributes = real.features["text"], real.features["attributes"]
    assert text.values.shape == (1447, 64)
    np.testing.assert_allclose(np.linalg.norm(text.values, axis=1), 1, atol=1e-3)
    assert attributes.values.shape == (1447, 26)
    assert real.item_ids[~attributes.present].tolist() == ["267"]
    assert load("ml-100k").fingerprint == real.fingerprint


@pytest.mark.skipif(not (SHARED / "ml-100k-mkg").is_dir(), reason="the prepared folder is not beside the repository")
def test_real_data_equal_the_prepared_folder(real):
    prepared = load(SHARED / "ml-100k-mkg")
    assert real.split_fingerprint == prepared.split_fingerprint
    for name in ("train", "valid", "test", "triples", "item_ids", "item_titles", "entity_names", "relation_names"):
        np.testing.assert_array_equal(getattr(real, name), getattr(prepared, name), err_msg=name)
    genres = [line.split("\t")[4] for line in (SHARED / "ml-100k-mkg" / "items.tsv").read_text().splitlines()[1:]]
    assert real.entity_names is not None
    ours = [[] for _ in range(real.num_items)]
    for head, _, tail in real.triples[real.triples[:, 1] == 23].tolist():
        ours[head].append(real.entity_names[tail].removeprefix("genre:"))
    assert ["|".join(film) for film in ours] == genres
