"""SLIF-MR in JAX: multimodal recommendation whose graphs are rebuilt while training.

The modules below are loaded when they are first named, so that `import slif_jax` costs nothing:

| for | modules |
| --- | --- |
| operations on graphs | `ops`, `graphs`, `propagate`, `correlation`, `collectives` |
| data | `data`, `config`, `sampling` |
| a model and its training | `model`, `losses`, `train_state`, `train_step`, `engine`, `sharding`, `train` |
| measuring | `metrics`, `protocols`, `evaluate`, `groups` |
| using a trained model | `recommend`, `similar`, `explain`, `export` |

Other modules serve the programs of the project, and may change without a word.

>>> import slif_jax
>>> slif_jax.metrics.metric_names((10, 20))[:2]
('recall@10', 'recall@20')
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slif_jax import (
        collectives,
        config,
        correlation,
        data,
        engine,
        evaluate,
        explain,
        export,
        graphs,
        groups,
        linear,
        losses,
        meshes,
        metrics,
        model,
        ops,
        propagate,
        protocols,
        recommend,
        sampling,
        sharding,
        similar,
        train,
        train_state,
        train_step,
    )

    __version__: str

__all__ = [
    "collectives",
    "config",
    "correlation",
    "data",
    "engine",
    "evaluate",
    "explain",
    "export",
    "graphs",
    "groups",
    "linear",
    "losses",
    "meshes",
    "metrics",
    "model",
    "ops",
    "propagate",
    "protocols",
    "recommend",
    "sampling",
    "sharding",
    "similar",
    "train",
    "train_state",
    "train_step",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"slif_jax.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("slif_jax")
    raise AttributeError(f"module 'slif_jax' has no attribute '{name}'. Its modules: {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
