"""Memory and time of a training, from counts alone: `plan`, and what it is made of."""

from slif_jax.planning.accelerators import ACCELERATORS, Accelerator, accelerator
from slif_jax.planning.plans import PartPlan, Plan, plan
from slif_jax.planning.sizes import Sizes, sizes_of
from slif_jax.planning.space import device_bytes

__all__ = [
    "ACCELERATORS",
    "Accelerator",
    "PartPlan",
    "Plan",
    "Sizes",
    "accelerator",
    "device_bytes",
    "plan",
    "sizes_of",
]
