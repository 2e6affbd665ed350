"""Reads sparse matrices from pickle files without running anything that stands in them.

A pickle is a program: it may call any function it names. Here every name leads to an inert stand-in of ours or to an
error, NumPy and SciPy take no part in it, and what the stand-ins have collected is checked before an array is made
from it. So the size of the file bounds the memory, and the worst a file can do is to be refused.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slif_jax.data.errors import DataError
from slif_jax.data.tables import shown

_MAX_OPCODES = 10_000
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMBER = "biuf"


class _Stand:
    """Holds what a pickle would have given to an object.

    A state for the class itself, by which a pickle would change it for later reads, fails: `__setstate__` lacks `self`.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Stand):
    """In place of `numpy.ndarray`."""


class _Dtype(_Stand):
    """In place of `numpy.dtype`."""


class _Matrix(_Stand):
    """In place of a matrix of `scipy.sparse`."""


class _CooMatrix(_Matrix):
    pass


class _CsrMatrix(_Matrix):
    pass


class _CscMatrix(_Matrix):
    pass


class _Scalar(_Stand):
    """In place of a NumPy number."""


class _Object(_Stand):
    """In place of `object`, in old protocols."""


class _Function:
    """A function that a pickle can call and cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")


def _reconstructor(kind: Any, base: Any, state: Any) -> _Stand:
    del base, state
    if not (isinstance(kind, type) and issubclass(kind, _Stand)):
        raise pickle.UnpicklingError("an object that is no array")
    return kind()


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    del kind, shape, code
    return _Array()


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """How arrays are written by protocol 5."""
    del order
    array = _Array()
    array.state = (1, shape, kind, False, content)
    return array


_STANDS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("copyreg", "_reconstructor"): _Function(_reconstructor),
    ("copy_reg", "_reconstructor"): _Function(_reconstructor),
    ("builtins", "object"): _Object,
    ("__builtin__", "object"): _Object,
}
_STANDS |= {(module, "_reconstruct"): _Function(_reconstruct) for module in _MODULES}
_STANDS |= {(module, "scalar"): _Scalar for module in _MODULES}
_STANDS |= {(module, "_frombuffer"): _Function(_frombuffer) for module in ("numpy.core.numeric", "numpy._core.numeric")}
_SPARSE = {"coo": _CooMatrix, "csr": _CsrMatrix, "csc": _CscMatrix}


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._unencoded = len(content)

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in, or an error: nothing is ever imported."""
        if (module, name) == ("_codecs", "encode"):
            return _Function(self._encode)
        found = _STANDS.get((module, name))
        kind, _, rest = name.partition("_")
        if found is None and module.split(".")[:2] == ["scipy", "sparse"] and rest in ("matrix", "array"):
            found = _SPARSE.get(kind)
        if found is None:
            raise pickle.UnpicklingError(f"{shown(f'{module}.{name}')}, which is not read")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Refuses references to things outside the file."""
        del pid
        raise pickle.UnpicklingError("a reference to another file")

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """How old protocols write bytes. All of them together are no longer than the file."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in an unknown encoding")
        self._unencoded -= len(text)
        if self._unencoded < 0:
            raise pickle.UnpicklingError("more bytes than the file has")
        return text.encode("latin1")


def read_matrix(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Reads a sparse matrix (SciPy's coo, csr or csc).

    n is the number of entries that are not zero.

    Args:
      path: the pickle file.

    Returns:
      Rows and columns, `[n]` int32 each, and the shape.

    Raises:
      DataError: if the file holds anything else, or is damaged.
    """
    try:
        content = path.read_bytes()
        _check_program(content)
        matrix = _Unpickler(content).load()
        if not isinstance(matrix, _Matrix):
            raise pickle.UnpicklingError("something that is no sparse matrix (coo, csr or csc)")
        return _entries(matrix)
    except pickle.UnpicklingError as error:
        text = "".join(letter if letter.isprintable() else "?" for letter in str(error)[:160])
        raise DataError(f"{path.name}: holds {text}.") from None
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror}).") from None
    except Exception:  # a damaged pickle may fail with nearly anything
        raise DataError(f"{path.name}: not a complete pickle of a sparse matrix.") from None


def _check_program(content: bytes) -> None:
    """Refuses programs that are long, or number their memory far beyond what they store: both eat memory."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count > _MAX_OPCODES:
            raise pickle.UnpicklingError("a program instead of a matrix")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > _MAX_OPCODES:
            raise pickle.UnpicklingError("a damaged memory")


def _wrong(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"a sparse matrix with {what}")


def _entries(matrix: _Matrix) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    state = matrix.state
    if not isinstance(state, dict):
        raise _wrong("an unknown state")
    shape = state.get("_shape")
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise _wrong("no shape")
    num_rows, num_columns = (_integer(size) for size in shape)
    data = _array(state.get("data"))
    if not np.isfinite(data).all():
        raise _wrong("entries that are not finite")
    if isinstance(matrix, _CooMatrix):
        ends = state.get("coords")
        ends = ends if isinstance(ends, tuple) and len(ends) == 2 else (state.get("row"), state.get("col"))
        rows, columns = (_indices(_array(end)) for end in ends)
    else:
        by_row = isinstance(matrix, _CsrMatrix)
        minor, starts = _indices(_array(state.get("indices"))), _indices(_array(state.get("indptr")))
        if len(starts) != (num_rows if by_row else num_columns) + 1 or starts[0] != 0 or starts[-1] != len(minor):
            raise _wrong("an index that does not fit")
        counts = np.diff(starts)
        if (counts < 0).any():
            raise _wrong("an index that does not fit")
        major = np.repeat(np.arange(len(counts)), counts)
        rows, columns = (major, minor) if by_row else (minor, major)
    if not len(rows) == len(columns) == len(data):
        raise _wrong("columns of different lengths")
    for ids, size in ((rows, num_rows), (columns, num_columns)):
        if len(ids) and (ids.min() < 0 or ids.max() >= size):
            raise _wrong(f"an index outside 0 to {size - 1}")
    filled = data != 0
    return rows[filled].astype(np.int32), columns[filled].astype(np.int32), (num_rows, num_columns)


def _integer(value: Any) -> int:
    if isinstance(value, _Scalar) and len(value.arguments) == 2 and isinstance(value.arguments[1], bytes):
        kind = _dtype(value.arguments[0])
        if kind.kind in "iu" and len(value.arguments[1]) == kind.itemsize:
            value = int(np.frombuffer(value.arguments[1], kind)[0])
    if not isinstance(value, int) or not 0 <= value <= 2**31 - 2:
        raise _wrong("an unusable shape")
    return value


def _indices(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iu" or (array.dtype.kind == "u" and array.dtype.itemsize == 8):
        raise _wrong("an index that is no integer")
    return array.astype(np.int64)  # differences of unsigned or narrow numbers wrap around


def _dtype(stand: Any) -> np.dtype:
    """The number type of a stand-in."""
    name = stand.arguments[0] if isinstance(stand, _Dtype) and stand.arguments else None
    if not isinstance(name, str) or len(name) != 2 or name[0] not in _NUMBER or name[1] not in "1248":
        raise _wrong("entries that are no numbers")
    order = stand.state[1] if isinstance(stand.state, tuple) and len(stand.state) > 1 else "="
    if order not in ("<", ">", "=", "|"):
        raise _wrong("entries of an unknown byte order")
    return np.dtype(name).newbyteorder(order)


def _array(stand: Any) -> np.ndarray:
    """The flat array of a stand-in, a view of the bytes in the file."""
    state = stand.state if isinstance(stand, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[4], bytes | bytearray):
        raise _wrong("a part that is no array")
    shape, kind, content = state[1], _dtype(state[2]), state[4]
    if not isinstance(shape, tuple) or len(shape) != 1 or shape[0] * kind.itemsize != len(content):
        raise _wrong("an array of another size than its bytes")
    array = np.frombuffer(content, kind)
    return array if array.dtype.isnative else array.astype(kind.newbyteorder("="))
