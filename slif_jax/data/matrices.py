"""Reads a folder as DiffMM, DiffKG and KDiffE have it: sparse matrices of users and items in pickle files.

  trnMat.pkl, tstMat.pkl     [users, items], SciPy's coo, csr or csc; what is not zero is an interaction
  valMat.pkl                 optional, likewise
  <modality>_feat.npy        optional: [items, d]
  kg.txt, kg_final.txt and the lists are read as in KGAT's layout

Nothing in the files is run: see `pickles`.
"""

from pathlib import Path

import numpy as np

from slif_jax.data import kgat, pickles
from slif_jax.data.errors import DataError
from slif_jax.data.raw import Interactions, Raw, Selection

FILES = ("trnMat.pkl", "valMat.pkl", "tstMat.pkl")


def detect(folder: Path) -> bool:
    """Says whether a folder is in this layout."""
    return (folder / FILES[0]).is_file()


def read(folder: Path, selection: Selection) -> Raw:
    """Reads a folder in this layout.

    Args:
      folder: holds at least `trnMat.pkl`.
      selection: not used: there are neither ratings nor times.

    Returns:
      What the files say.

    Raises:
      DataError: if a file is no sparse matrix, or they differ in shape.
    """
    del selection
    parts, shapes = [], {}
    for label, name in enumerate(FILES):
        if label and not (folder / name).is_file():
            continue
        if not (folder / name).is_file():
            raise DataError(f"{name}: no such file in {folder}.")
        users, items, shapes[name] = pickles.read_matrix(folder / name)
        parts.append((users, items, np.full(len(users), label, np.int8)))
    if len(set(shapes.values())) > 1:
        words = ", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in shapes.items())
        raise DataError(f"{folder.name}: the matrices must have one shape, got {words}.")
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return kgat.with_extras(folder, Interactions(*columns), shapes[FILES[0]][1])
