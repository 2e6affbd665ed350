"""The best items of users from an export, by jax and flatbuffers alone: python score_export.py FOLDER USER_ID ..."""

import sys
from pathlib import Path

import numpy as np
from jax import export

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, wanted = Path(sys.argv[1]), sys.argv[2:]
scorer = export.deserialize(bytearray((folder / "scorer.bin").read_bytes()))
with np.load(folder / "embeddings.npz") as arrays:
    users, items, user_ids, item_ids = (arrays[name] for name in ("users", "items", "user_ids", "item_ids"))
    bounds, seen_items = arrays["seen_indptr"], arrays["seen_items"]
    titles = arrays["titles"] if "titles" in arrays else np.full(len(items), "")

if unknown := [name for name in wanted if name not in user_ids]:
    sys.exit(f"No user '{unknown[0]}' in {folder}.")
index = np.array([np.flatnonzero(user_ids == name)[0] for name in wanted], np.int32)
rows = [seen_items[bounds[user] : bounds[user + 1]] for user in index]
seen = np.full((len(rows), max(1, *map(len, rows))), len(items), np.int32)
for row, already in zip(seen, rows, strict=True):
    row[: len(already)] = already
best, scores = map(np.asarray, scorer.call(users, items, seen, index))
for name, row, values in zip(wanted, best, scores, strict=True):
    for item, value in zip(row[row >= 0], values, strict=False):
        print(name, item_ids[item], f"{value:.6g}", titles[item], sep="\t")
