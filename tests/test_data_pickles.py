"""Pickles of sparse matrices: read without running them, whatever they hold."""

import os
import pickle
import struct

import numpy as np
import pytest
from scipy import sparse

from slif_jax.data import pickles
from slif_jax.data.errors import DataError
from slif_jax.data.pickles import read_matrix

MATRIX = sparse.coo_matrix(([1.0, 2.0, 3.0], ([0, 1, 3], [2, 0, 1])), shape=(4, 3))


class Calls:
    """Would make a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
def test_matrices_of_every_protocol(tmp_path, form, protocol):
    path = tmp_path / "trnMat.pkl"
    path.write_bytes(pickle.dumps(MATRIX.asformat(form), protocol=protocol))
    rows, columns, shape = read_matrix(path)
    assert shape == MATRIX.shape
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 2), (1, 0), (3, 1)]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [MATRIX, x], lambda x: {"a": x}])
def test_nothing_is_called(tmp_path, wrap):
    path, made = tmp_path / "trnMat.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps(wrap(Calls(made))))
    with pytest.raises(DataError, match=r"trnMat\.pkl"):
        read_matrix(path)
    assert not made.exists()
    pickle.loads(path.read_bytes())  # so the file would have done it
    assert made.exists()


@pytest.mark.parametrize("name", ["os\nsystem", "builtins\neval", "numpy\nload", "scipy.sparse._coo\nos.system"])
def test_names_are_not_looked_up(tmp_path, name):
    path = tmp_path / "trnMat.pkl"
    path.write_bytes(b"c" + name.encode() + b"\n(Vtrue\ntR.")
    with pytest.raises(DataError):
        read_matrix(path)


def test_a_large_number_in_a_small_file_takes_no_memory(tmp_path):
    path = tmp_path / "trnMat.pkl"
    for text in (b"\x80\x04Nr" + struct.pack("<I", 2**31) + b".", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x."):
        path.write_bytes(text)
        with pytest.raises(DataError):
            read_matrix(path)


def test_an_array_that_is_longer_than_its_bytes(tmp_path):
    path = tmp_path / "trnMat.pkl"
    whole = pickle.dumps(MATRIX.tocsr(), protocol=4)
    short = struct.pack("<d", 2.0) + struct.pack("<d", 3.0)
    assert short in whole
    path.write_bytes(whole.replace(short, struct.pack("<d", 2.0) + b"\x00" * 8, 1).replace(b"K\x03", b"K\x7f"))
    with pytest.raises(DataError):
        read_matrix(path)


def text_of(letters: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(letters)) + letters


def test_a_text_that_is_turned_into_bytes_again_and_again(tmp_path):
    path = tmp_path / "trnMat.pkl"
    start = b"\x80\x02](c_codecs\nencode\nq\x01" + text_of(b"a" * 1_000_000) + b"q\x02" + text_of(b"latin1") + b"q\x03"
    path.write_bytes(start + b"\x86R" + b"h\x01h\x02h\x03\x86R" * 900 + b"e.")  # 900 MB from a file of 1 MB
    with pytest.raises(DataError, match="more bytes than the file has"):
        read_matrix(path)


@pytest.mark.parametrize(
    "target", [b"c_codecs\nencode\n", b"cnumpy\nndarray\n", b"c__builtin__\nobject\n", b"ccopyreg\n_reconstructor\n"]
)
@pytest.mark.parametrize("state", [b"}" + text_of(b"a") + b"K\x01s", b"N}" + text_of(b"a") + b"K\x01s\x86"])
def test_a_file_changes_nothing_for_the_next_one(tmp_path, target, state):
    path = tmp_path / "trnMat.pkl"
    path.write_bytes(b"\x80\x02" + target + state + b"b.")
    before = {key: vars(stand).copy() for key, stand in pickles._STANDS.items() if isinstance(stand, type)}
    with pytest.raises(DataError):
        read_matrix(path)
    assert before == {key: vars(stand) for key, stand in pickles._STANDS.items() if isinstance(stand, type)}
    path.write_bytes(pickle.dumps(MATRIX, protocol=2))
    assert read_matrix(path)[2] == (4, 3)


@pytest.mark.parametrize("kind", [np.uint32, np.uint8, np.int8])
def test_starts_of_rows_that_descend(tmp_path, kind):
    matrix = MATRIX.tocsr()
    matrix.indptr = np.array([0, 2, 1, 3, 3], kind)  # as unsigned numbers, a row of four thousand million entries
    path = tmp_path / "trnMat.pkl"
    path.write_bytes(pickle.dumps(matrix))
    with pytest.raises(DataError, match="an index that does not fit"):
        read_matrix(path)


def test_a_pile_of_brackets(tmp_path):
    path = tmp_path / "trnMat.pkl"
    for opcode in (b"]" * 9000 + b"a" * 8999, b"(" * 9000 + b"t" * 9000, b"N" + b"\x85" * 9000):
        path.write_bytes(b"\x80\x02" + opcode + b".")
        with pytest.raises(DataError):
            read_matrix(path)
