"""Studies: several configurations by several seeds and splits, or a search, ending in one table and one plot."""

from slif_jax.studies.plan import Arm, Plan, ablation, cold_start, noise, seeds
from slif_jax.studies.run import run_study

__all__ = ["Arm", "Plan", "ablation", "cold_start", "noise", "run_study", "seeds"]
