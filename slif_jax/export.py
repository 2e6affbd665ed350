"""Taking a model away: its vectors with id tables, and a scorer that runs where slif_jax is not installed."""

import hashlib
import importlib.util
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from slif_jax.recommend import TrainedModel, known_items
from slif_jax.rows import csr_rows

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = ("embeddings.npz", "scorer.bin", "manifest.json", "README.md")


def score(users: Array, items: Array, seen: Array, user_index: Array, *, top: int) -> tuple[Array, Array]:
    """The best items of a batch of users, in plain XLA operations: what `scorer.bin` holds.

    Args:
      users: `[U, D]` what scores are made of.
      items: `[I, D]`.
      seen: `[b, s]` items that each user is not given, filled up with I.
      user_index: `[b]` rows of `users`.
      top: items per user. Static.

    Returns:
      `[b, top]` items, best first, equal scores in the order of the items, -1 where a user has no more; and their
      `[b, top]` scores, -inf there.
    """
    scores = jnp.matmul(users[user_index], items.T, precision=jax.lax.Precision.HIGHEST)
    rows = jnp.arange(scores.shape[0], dtype=jnp.int32)[:, None]
    scores = scores.at[rows, seen].set(-jnp.inf, mode="drop")
    values, indices = jax.lax.top_k(scores, top)
    return jnp.where(jnp.isneginf(values), -1, indices), values


def serialise_scorer(num_items: int, width: int, *, top: int) -> bytes:
    """`score` as StableHLO for CPUs, NVIDIA GPUs and TPUs at once, for any number of users and any batch.

    Args:
      num_items: I.
      width: D.
      top: items per user.

    Returns:
      Bytes for `jax.export.deserialize`.

    Raises:
      ValueError: if `top` is not in [1, I].
      ModuleNotFoundError: if flatbuffers, in which jax writes exports, is not installed.
    """
    if not 1 <= top <= num_items:
        raise ValueError(f"`top` must be between 1 and the number of items, {num_items}: got {top}.")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ModuleNotFoundError("Exports need the package flatbuffers: pip install flatbuffers.")
    from jax import export as jax_export

    def scorer(users: Array, items: Array, seen: Array, user_index: Array) -> tuple[Array, Array]:
        return score(users, items, seen, user_index, top=top)

    u, b, s = jax_export.symbolic_shape("u, b, s")
    shapes = (
        jax.ShapeDtypeStruct((u, width), jnp.float32),
        jax.ShapeDtypeStruct((num_items, width), jnp.float32),
        jax.ShapeDtypeStruct((b, s), jnp.int32),
        jax.ShapeDtypeStruct((b,), jnp.int32),
    )
    limit = jax.config.jax_traceback_in_locations_limit  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_in_locations_limit", 0)  # no paths of this machine in the artefact
    try:
        return bytes(jax_export.export(jax.jit(scorer), platforms=PLATFORMS)(*shapes).serialize())
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def export(trained: TrainedModel, folder: Path, *, top: int = 100, profile: str = "full") -> dict[str, Any]:
    """Writes a model in a form that needs neither this package nor its data.

    `embeddings.npz` (vectors, original ids, titles, and what each user has seen), `scorer.bin`, `manifest.json`
    and a README. The folder appears when it is complete; an earlier export there is replaced.

    Args:
      trained: from `recommend.load_trained`.
      folder: where to write.
      top: items per user that the scorer returns; at most all.
      profile: what a user has seen; see `recommend.known_items`.

    Returns:
      The manifest.

    Raises:
      OSError: if the folder holds files of other origin, or cannot be written.
      ModuleNotFoundError: as `serialise_scorer`.
    """
    check_folder(folder)
    dataset, ranked = trained.dataset, trained.encoded.ranked
    top = min(top, dataset.num_items)
    scorer = serialise_scorer(dataset.num_items, ranked.items.shape[1], top=top)
    folder = folder.resolve()
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")  # no folder that somebody else has made
    partial.mkdir()
    try:
        manifest = _write(trained, partial, scorer, top=top, profile=profile)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _write(trained: TrainedModel, folder: Path, scorer: bytes, *, top: int, profile: str) -> dict[str, Any]:
    dataset, ranked = trained.dataset, trained.encoded.ranked
    indptr, seen = csr_rows(known_items(dataset, profile), np.arange(dataset.num_users), dataset.num_users)
    arrays = {
        "users": np.asarray(ranked.users),
        "items": np.asarray(ranked.items),
        "user_ids": dataset.user_ids,
        "item_ids": dataset.item_ids,
        "seen_indptr": indptr,
        "seen_items": seen,
    }
    if dataset.item_titles is not None:
        arrays["titles"] = dataset.item_titles
    np.savez(folder / "embeddings.npz", **arrays)  # pyright: ignore[reportArgumentType]
    (folder / "scorer.bin").write_bytes(scorer)
    manifest = {
        "dataset": dataset.name,
        "epoch": trained.epoch,
        "protocol": trained.config.protocol,
        "data_fingerprint": dataset.fingerprint,
        "split_fingerprint": dataset.split_fingerprint,
        "profile": profile,
        "vector_columns": trained.encoded.final.items.shape[1],
        "arrays": {name: {"shape": list(x.shape), "dtype": str(x.dtype)} for name, x in arrays.items()},
        "scorer": {
            "arguments": ["users [u, d]", "items [I, d]", "seen [b, s], filled up with I", "user_index [b]"],
            "results": ["items [b, top], -1 for none", "scores [b, top]"],
            "symbolic": ["u", "b", "s"],
            "top": top,
            "platforms": list(PLATFORMS),
        },
        "sha256": {name: _sha256(folder / name) for name in FILES[:2]},
        "versions": {name: version(name) for name in ("slif_jax", "jax", "jaxlib", "numpy")},
        "config": trained.config.to_dict(),
        "linear_weights": trained.linear_weights(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / "README.md").write_text(_readme(manifest))
    return manifest


def check_folder(folder: Path) -> None:
    """Refuses a place that is neither free nor an earlier export.

    Raises:
      OSError: then.
    """
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"{folder.parent} is no folder. Make it first, or name another --output.")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file. Name a folder with --output.")
    others = sorted(path.name for path in folder.iterdir() if path.name not in FILES) if folder.is_dir() else []
    if others:
        raise FileExistsError(f"{folder} holds '{others[0]}', which is no part of an export. Name an empty --output.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readme(manifest: dict[str, Any]) -> str:
    scorer = manifest["scorer"]
    arrays = ", ".join(f"`{name}` {array['shape']}" for name, array in manifest["arrays"].items())
    return f"""# {manifest["dataset"]}: vectors and scorer

Epoch {manifest["epoch"]} of a run of slif_jax {manifest["versions"]["slif_jax"]}.
Settings and hashes are in `manifest.json`.

- `embeddings.npz`: {arrays}.
  The score of user u for item i is `users[u] @ items[i]`; for what else vectors are good for, such as similar items,
  take their first {manifest["vector_columns"]} columns. User u has seen
  `seen_items[seen_indptr[u]:seen_indptr[u + 1]]`.
- `scorer.bin`: StableHLO for {", ".join(scorer["platforms"])}, read with
  `jax.export.deserialize(bytearray(open("scorer.bin", "rb").read()))` and called as
  `.call(users, items, seen, user_index)`: the {scorer["top"]} best items of each user of a batch, and their scores. It
  needs the packages jax and flatbuffers (jax {manifest["versions"]["jax"]} wrote it), not slif_jax. A batch of b users
  takes 4 b I bytes of memory for its scores.
"""
