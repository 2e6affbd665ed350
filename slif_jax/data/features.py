"""Feature arrays and presence masks, shared by the readers."""

import warnings
from pathlib import Path

import numpy as np

from slif_jax.data import findings, tables
from slif_jax.data.dataset import Modality
from slif_jax.data.errors import DataError

_MASK = "_present"
FEATURES = "_feat"


def read_array(path: Path) -> np.ndarray:
    """Maps a `.npy` file into memory, read-only. Nothing in it is ever unpickled.

    Raises:
      DataError: if the file is no `.npy` file, is cut short, or holds Python objects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header written by Python 2 is read all the same
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python text, which may fail in many ways
        if "Python objects" in str(error):
            raise DataError(f"{path.name}: holds Python objects, which are not read; save it as floats.") from None
        raise DataError(f"{path.name}: not a complete .npy file.") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path.name}: expected one array, got an archive of several.")
    return array


def read_values(path: Path, num_items: int) -> np.ndarray:
    """Reads features.

    I is the number of items, d the width.

    Args:
      path: `[I, d]` float16, float32 (both stay on disk, memory-mapped) or float64 (becomes float32).
      num_items: I.

    Returns:
      `[I, d]` float16 or float32.

    Raises:
      DataError: if the file cannot be read or is not of this shape and type. Finite values are checked by `validate`.
    """
    values = read_array(path)
    if values.dtype.newbyteorder("=") not in (np.float16, np.float32, np.float64):
        raise DataError(f"{path.name}: expected float16, float32 or float64, got {values.dtype}.")
    if values.ndim != 2 or not values.shape[1]:
        raise DataError(f"{path.name}: expected an array [items, width], got shape {values.shape}.")
    if len(values) != num_items:
        raise DataError(f"{path.name}: expected {num_items} rows, one per item, got {len(values)}.")
    if values.dtype.itemsize == 8:
        findings.note("float64_features", f"{path.name}: float64 is read as float32.", file=path.name)
    if values.dtype.itemsize == 8 or not values.dtype.isnative:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite or NaN is reported as such
            values = values.astype(np.float16 if values.dtype.itemsize == 2 else np.float32)
    return values


def read_modality(path: Path, num_items: int) -> Modality:
    """Reads `<name>.npy` and, where there is one, the mask `<name>_present.npy`.

    Args:
      path: the features, as for `read_values`.
      num_items: I.

    Returns:
      The modality. Without a mask file every item has it: a row of zeros is a value like any other.

    Raises:
      DataError: as `read_values`, and if the mask is not `[I]` bool.
    """
    values = read_values(path, num_items)
    mask = path.with_name(f"{path.stem}{_MASK}.npy")
    if not mask.exists():
        return Modality(values, np.ones(num_items, np.bool_))
    present = read_array(mask)
    if present.shape != (num_items,) or present.dtype != np.bool_:
        raise DataError(
            f"{mask.name}: expected bool of shape ({num_items},), got {present.dtype} of shape {present.shape}."
        )
    return Modality(values, np.array(present))


def read_feat_files(folder: Path, num_items: int) -> dict[str, Modality]:
    """Reads every `<modality>_feat.npy` of a folder; `missed_<modality>_itemIDs.csv` names the items that lack it.

    MMRec calls that file of the modality `image` `missed_img_itemIDs.csv`: one item number a line, without a header.

    Args:
      folder: where they are.
      num_items: I; row i is item i.

    Returns:
      Modalities by name.

    Raises:
      DataError: as `read_values`; names the line of `missed_*` that is no number.
    """
    found = {}
    for path in sorted(folder.glob(f"*{FEATURES}.npy")):
        name = path.stem.removesuffix(FEATURES)
        values = read_values(path, num_items)
        present = np.ones(num_items, np.bool_)
        missed = folder / missed_file(name)
        if missed.is_file() and missed.stat().st_size:
            items = tables.read_columns(missed, {"item": tables.integers}, names=["item"])["item"]
            strange = int(np.count_nonzero(items >= num_items))
            text = f"{missed.name}: {strange} numbers belong to no item (0 to {num_items - 1}) and are not used."
            findings.note("unknown_items", text, strange, file=missed.name)
            present[items[items < num_items]] = False
        found[name] = Modality(values, present)
    return found


def missed_file(modality: str) -> str:
    """Name of the file that lists the items without a modality."""
    return f"missed_{'img' if modality == 'image' else modality}_itemIDs.csv"


def modality_files(folder: Path) -> list[Path]:
    """Returns the feature files of a folder in the order of their names, without the masks.

    Raises:
      DataError: if a mask has no features beside it.
    """
    files = sorted(folder.glob("*.npy"))
    for mask in files:
        if mask.stem.endswith(_MASK):
            owner = mask.stem.removesuffix(_MASK) + ".npy"
            if not (folder / owner).is_file():
                raise DataError(f"{mask.name}: there is no {owner} beside it.")
    return [path for path in files if not path.stem.endswith(_MASK)]


class FilledRows:
    """A modality's features as float32, read where they lie when rows are asked for: `rows[ids]`, `rows[2:5]`.

    Attributes:
      shape: `(I, d)`.
      dtype: float32.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, modality: Modality, *, mean: bool = False) -> None:
        """What stands in the rows of absent items.

        Args:
          modality: the features.
          mean: the mean of the present items' rows; else zeros.
        """
        self.shape = modality.values.shape
        self._values, self._present = modality.values, np.asarray(modality.present)
        self._stand_in = np.float32(0.0)
        if mean and not self._present.all():
            self._stand_in = _mean_row(self._values, self._present)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """`[n, d]` float32; it may be a view of the file, to be read only."""
        values, present = self._values[rows], self._present[rows]
        if present.all():
            return np.asarray(values, np.float32)
        out = np.empty(values.shape, np.float32)
        out[:] = self._stand_in
        out[present] = values[present]
        return out


def filled(modality: Modality) -> np.ndarray:
    """Returns the features as float32 in memory, with zeros in the rows of absent items.

    Returns:
      `[I, d]` float32, a new array.
    """
    rows = FilledRows(modality)[:]
    return np.array(rows) if np.may_share_memory(rows, modality.values) else rows


def _mean_row(values: np.ndarray, present: np.ndarray, rows_at_once: int = 4096) -> np.ndarray:
    """`[d]`: the mean of the present rows, zeros without any; sums in float64."""
    total = np.zeros(values.shape[1])
    for start in range(0, len(values), rows_at_once):
        block = slice(start, start + rows_at_once)
        total += values[block][present[block]].sum(axis=0, dtype=np.float64)
    return (total / max(1, np.count_nonzero(present))).astype(np.float32)
