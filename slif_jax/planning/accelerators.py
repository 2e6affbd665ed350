"""What machines can do, from the makers' public data sheets; what is not in a data sheet is said to be assumed."""

import dataclasses
import math

GB = 10**9
"""As in data sheets; the memory of a device is given in these too."""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device of a kind, and how devices of the kind are joined. Rates are per second."""

    name: str
    memory: float | int
    """Bytes."""
    products: float
    """Floating-point operations in products of float32 matrices, at JAX's default precision."""
    products_bf16: float
    """The same in bfloat16, for comparison: with --precision=bf16 matrices are multiplied in float32 all the same."""
    streamed: float
    """Bytes read or written in order."""
    gathered: float
    """Bytes of rows that a sparse kernel reads in the order of its edges."""
    scattered: float
    """Bytes of rows that are looked up by id, or added to where an id says."""
    functions: float
    """Exponentials, hyperbolic tangents, random numbers and the like."""
    link: float
    """Bytes that a device receives from the others of its group, in one direction."""
    group: int
    """Devices that are joined by such links."""
    network: float | None
    """Bytes that a device receives from other groups; None: not known."""
    latency: float
    """Seconds that a collective takes however small it is."""
    usable: float = 1.0
    """Share of the memory that a program gets."""
    native_kernels: bool = False
    """Whether sparse kernels sum the rows as they read them; elsewhere XLA writes a message for every edge first."""
    measured: bool = False
    """Whether the rates were measured; else they are peaks, which no program reaches."""

    def slowed(self, efficiency: float | int) -> "Accelerator":
        """The same with rates of memory that reach only a share of their peak.

        Args:
          efficiency: that share, in (0, 1].

        Returns:
          Another `Accelerator`.

        Raises:
          ValueError: if the share is out of range.
        """
        if not 0.0 < efficiency <= 1.0:
            raise ValueError(f"`efficiency` must be above 0 and at most 1: got {efficiency}.")
        rates = {name: getattr(self, name) * efficiency for name in ("streamed", "gathered", "scattered")}
        return dataclasses.replace(self, **rates)


def _data_sheet(
    name: str, memory: float | int, bandwidth: float | int, f32: float | int, bf16: float | int, link: float | int,
    group: int, network: float | int | None, usable: float,
) -> Accelerator:  # fmt: skip
    """GB, GB/s and TFLOP/s, the units of data sheets."""
    return Accelerator(
        name=name,
        memory=float(memory * GB),
        products=f32 * 1e12,
        products_bf16=bf16 * 1e12,
        streamed=float(bandwidth * GB),
        gathered=float(bandwidth * GB),
        scattered=float(bandwidth * GB),
        functions=math.inf,  # in no data sheet: not counted
        link=float(link * GB),
        group=group,
        network=None if network is None else float(network * GB),
        latency=_LATENCY,
        usable=usable,
    )


# Assumed: no data sheet has it.
_LATENCY = 10e-6
# Assumed for TPUs. JAX takes 75 % of a GPU's memory unless told otherwise (docs.jax.dev, "GPU memory allocation").
_TPU, _GPU = 0.9, 0.75

# TPUs: cloud.google.com/tpu/docs/v5e, v5p-training and v6e, tables of specifications, read in November 2026. They give
# the links' bandwidth for both directions together: half of it is taken. At JAX's default precision a TPU multiplies
# float32 matrices in one pass of bf16, hence the same figure twice. The network of a v5e pod of 256 is 6.4 Tbit/s, that
# of a v5p chip 50 Gbit/s; of v6e none is given.
# GPUs: NVIDIA's data sheets of A100 80GB SXM and H100 SXM, without sparsity; products of float32 as TF32, as JAX takes
# them. NVLink: half of the 600 and 900 GB/s for both directions. Network: an adapter of 200 and 400 Gbit/s for each
# GPU, as in DGX A100 and DGX H100 (user guides).
_TABLE = (
    #            name         GB   GB/s  TFLOP/s, bf16  link group network usable
    _data_sheet("v5e",        16,  819,  197,   197,    200, 256,  3.125,  _TPU),
    _data_sheet("v5p",        95,  2765, 459,   459,    600, 8960, 6.25,   _TPU),
    _data_sheet("v6e",        32,  1638, 918,   918,    400, 256,  None,   _TPU),
    _data_sheet("a100-80gb",  80,  2039, 156,   312,    300, 8,    25,     _GPU),
    _data_sheet("h100-sxm",   80,  3350, 494.7, 989.4,  450, 8,    50,     _GPU),
)  # fmt: skip
ACCELERATORS = {entry.name: entry for entry in _TABLE}


def accelerator(name: str) -> Accelerator:
    """An entry of the table.

    Args:
      name: such as 'v5e'.

    Returns:
      `Accelerator`.

    Raises:
      ValueError: on a name that is not there.
    """
    if name not in ACCELERATORS:
        raise ValueError(
            f"`accelerator` must be one of {', '.join(ACCELERATORS)}, or cpu, measured here: got '{name}'."
        )
    return ACCELERATORS[name]
