"""Feature arrays and presence masks, shared by the readers."""

from pathlib import Path

import numpy as np

from slif_jax.data.dataset import Modality
from slif_jax.data.errors import DataError

_MASK = "_present"


def read_array(path: Path) -> np.ndarray:
    """Maps a `.npy` file into memory, read-only. Nothing in it is ever unpickled.

    Raises:
      DataError: if the file is no `.npy` file, is cut short, or holds Python objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "Python objects" in str(error):
            raise DataError(f"{path.name}: holds Python objects, which are not read; save it as floats.") from None
        raise DataError(f"{path.name}: not a complete .npy file.") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path.name}: expected one array, got an archive of several.")
    return array


def read_modality(path: Path, num_items: int) -> Modality:
    """Reads `<name>.npy` and, where there is one, the mask `<name>_present.npy`.

    I is the number of items, d the width.

    Args:
      path: the features, `[I, d]` float16, float32 (both stay on disk, memory-mapped) or float64 (becomes float32).
      num_items: I.

    Returns:
      The modality. Without a mask file every item has it: a row of zeros is a value like any other.

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
    if values.dtype.itemsize == 8 or not values.dtype.isnative:
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite and is reported as such
            values = values.astype(np.float16 if values.dtype.itemsize == 2 else np.float32)
    mask = path.with_name(f"{path.stem}{_MASK}.npy")
    if not mask.exists():
        return Modality(values, np.ones(num_items, np.bool_))
    present = read_array(mask)
    if present.shape != (num_items,) or present.dtype != np.bool_:
        raise DataError(
            f"{mask.name}: expected bool of shape ({num_items},), got {present.dtype} of shape {present.shape}."
        )
    return Modality(values, np.array(present))


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


def filled(modality: Modality) -> np.ndarray:
    """Returns the features as float32 in memory, with zeros in the rows of absent items.

    Returns:
      `[I, d]` float32, a new array.
    """
    values = np.zeros(modality.values.shape, np.float32)
    values[modality.present] = modality.values[modality.present]
    return values
