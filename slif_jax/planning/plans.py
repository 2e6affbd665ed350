"""Will it fit, and how long will it take: answered from counts, before anything is launched."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from slif_jax.config import Config
from slif_jax.planning.accelerators import Accelerator
from slif_jax.planning.exchanges import Exchange, evaluate_exchanges, rebuild_exchanges, step_exchanges
from slif_jax.planning.remedies import Setting, settings_that_fit
from slif_jax.planning.sizes import Sizes
from slif_jax.planning.space import device_bytes, host_bytes
from slif_jax.planning.work import PARTS, Work, evaluate_work, num_steps, rebuild_work, step_work

_MOST_EDGES = 2**31 - 1
_MOST_DEVICES = 1 << 16


@dataclasses.dataclass(frozen=True)
class PartPlan:
    """One part of the work of a device, per occurrence: per step, per rebuild or per evaluation."""

    products: float | int
    """Floating-point operations in matrix products."""
    num_bytes: float | int
    """Of memory, read or written."""
    exchanged: float | int
    """Bytes received from other devices. They are part of 'collectives' too, which sums them up."""
    seconds: float | int
    """Without what is spent on the exchanges."""
    limit: str
    """The rate that most of the seconds are due to."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training on so many devices needs. Seconds are a model's; where rates are peaks, they are at best.

    `parts` holds 'propagate', 'loss', 'update' and 'collectives' per step; 'rebuild' and 'evaluate' once each, their
    exchanges included in `rebuild_seconds` and `evaluate_seconds`.
    """

    sizes: Sizes
    mesh: Mapping[str, int]
    accelerator: Accelerator
    num_bytes: Mapping[str, int]
    """Bytes per device, by purpose."""
    host_bytes: int
    """See `space.host_bytes`."""
    parts: Mapping[str, PartPlan]
    exchanges: tuple[Exchange, ...]
    """Of a step."""
    num_steps: int
    step_seconds: float
    rebuild_seconds: float
    evaluate_seconds: float
    epoch_seconds: float
    """Steps and, as often as the configuration asks for them, rebuild and evaluation."""
    obstacles: tuple[str, ...]
    """What stands in the way beside memory."""
    remedies: tuple[str, ...]
    """Settings that would make it fit, each on its own; none are needed where it does."""

    @property
    def devices(self) -> int:
        """How many there are."""
        return math.prod(self.mesh.values())

    @property
    def total_bytes(self) -> int:
        """Bytes per device."""
        return sum(self.num_bytes.values())

    @property
    def available_bytes(self) -> int:
        """What a device has for them."""
        return int(self.accelerator.memory * self.accelerator.usable)

    @property
    def fits(self) -> bool:
        """Whether memory suffices and nothing else stands in the way."""
        return self.total_bytes <= self.available_bytes and not self.obstacles

    @property
    def interactions_per_second(self) -> float:
        """Training interactions of all devices, rebuild and evaluation included."""
        return self.sizes.num_edges / self.epoch_seconds

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types."""
        fields = dataclasses.asdict(self)
        fields["exchanges"] = [exchange._asdict() for exchange in self.exchanges]
        rates = fields["accelerator"].items()
        fields["accelerator"] = {name: None if value == math.inf else value for name, value in rates}
        names = ("devices", "total_bytes", "available_bytes", "fits", "interactions_per_second")
        return fields | {name: getattr(self, name) for name in names}


def plan(sizes: Sizes, config: Config, mesh: Mapping[str, int], accelerator: Accelerator) -> Plan:
    """Predicts memory and time of a training.

    Args:
      sizes: of the data.
      config: settings.
      mesh: devices by axis; all rows are shared out over all of them. Empty for one device.
      accelerator: what a device can do.

    Returns:
      `Plan`.

    Raises:
      ValueError: if more devices are asked for than such accelerators are known to be joined.
    """
    devices = math.prod(mesh.values())
    if devices > accelerator.group and accelerator.network is None:
        raise ValueError(
            f"Links join at most {accelerator.group} devices of kind '{accelerator.name}', and nothing is known of "
            f"their network: got {devices} devices."
        )
    sizes = sizes.used(config)
    native = accelerator.native_kernels
    kinds = (step_work, rebuild_work, evaluate_work)
    work = [entry for kind in kinds for entry in kind(sizes, config, devices=devices, native_kernels=native)]
    exchanges = step_exchanges(sizes, config, devices)
    others = [*rebuild_exchanges(sizes, config, devices), *evaluate_exchanges(sizes, config, devices)]
    received = {part: sum(e.num_bytes * e.times for e in (*exchanges, *others) if e.part == part) for part in PARTS}
    parts = {
        part: _part([w for w in work if w.part == part], accelerator, received[part])
        for part in PARTS
        if part != "collectives"
    }
    of_step = _exchange_seconds(exchanges, devices, accelerator)
    total = sum(e.num_bytes * e.times for e in exchanges)
    limit = max(of_step, key=lambda name: of_step[name]) if exchanges else "none"
    parts["collectives"] = PartPlan(0.0, 0.0, total, sum(of_step.values()), limit)

    def with_exchanges(part: str) -> float:
        own = _exchange_seconds((e for e in others if e.part == part), devices, accelerator)
        return parts[part].seconds + sum(own.values())

    steps = num_steps(sizes, config)
    step = sum(parts[part].seconds for part in ("propagate", "loss", "update", "collectives"))
    rebuild, evaluate = with_exchanges("rebuild") if config.uses_correlation() else 0.0, with_exchanges("evaluate")

    def needed(at: Setting) -> int:
        return sum(device_bytes(at.sizes, at.config, devices=at.devices, native_kernels=native).values())

    at, room = Setting(sizes, config, devices), int(accelerator.memory * accelerator.usable)
    fits = needed(at) <= room
    most = _MOST_DEVICES if accelerator.network is not None else accelerator.group
    return Plan(
        sizes=sizes,
        mesh=dict(mesh),
        accelerator=accelerator,
        num_bytes=device_bytes(sizes, config, devices=devices, native_kernels=native),
        host_bytes=host_bytes(sizes, config, devices),
        parts=parts,
        exchanges=tuple(exchanges),
        num_steps=steps,
        step_seconds=step,
        rebuild_seconds=rebuild,
        evaluate_seconds=evaluate,
        epoch_seconds=steps * step + rebuild / config.correlation_period + evaluate / config.eval_every,
        obstacles=tuple(_obstacles(sizes, config, devices)),
        remedies=() if fits else settings_that_fit(at, needed, room, most_devices=most),
    )


def seconds_of(work: Work, accelerator: Accelerator) -> dict[str, float]:
    """What an operation would take by each rate alone; the greatest counts."""
    return {
        "products": work.products / accelerator.products,
        "functions": work.functions / accelerator.functions,
        "memory": work.streamed / accelerator.streamed
        + work.gathered / accelerator.gathered
        + work.scattered / accelerator.scattered,
    }


def _part(work: list[Work], accelerator: Accelerator, exchanged: float | int) -> PartPlan:
    by_limit: dict[str, float] = {}
    for entry in work:
        limit, seconds = max(seconds_of(entry, accelerator).items(), key=lambda pair: pair[1])
        by_limit[limit] = by_limit.get(limit, 0.0) + seconds
    return PartPlan(
        products=sum(entry.products for entry in work),
        num_bytes=sum(entry.streamed + entry.gathered + entry.scattered for entry in work),
        exchanged=exchanged,
        seconds=sum(by_limit.values()),
        limit=max(by_limit, key=lambda name: by_limit[name]) if by_limit else "none",
    )


def _exchange_seconds(exchanges: Iterable[Exchange], devices: int, accelerator: Accelerator) -> dict[str, float]:
    """Links inside a group and the network between groups carry an exchange at the same time.

    What comes from other groups comes once to a group, through the adapters of all its devices, and is passed on by
    links: that is how rings of collectives are laid.

    Returns:
      Seconds by what they are due to.
    """
    seconds = {"link": 0.0, "network": 0.0, "latency": 0.0}
    for exchange in exchanges:
        link, network = exchange.num_bytes / accelerator.link, 0.0
        if devices > accelerator.group and accelerator.network is not None:
            outside = exchange.num_bytes * (devices - accelerator.group) / (devices - 1)
            network = outside / (accelerator.network * accelerator.group)
        seconds["link" if link >= network else "network"] += exchange.times * max(link, network)
        seconds["latency"] += exchange.times * accelerator.latency
    return seconds


def _obstacles(sizes: Sizes, config: Config, devices: int) -> list[str]:
    found = []
    for name, edges in (("interactions", 2 * sizes.num_edges), ("triples", 2 * sizes.num_triples)):
        if edges >= _MOST_EDGES:
            found.append(
                f"The graph of {name} has {edges:,} edges: they are counted in int32, so {_MOST_EDGES:,} at most."
            )
    batches = {"batch_size": config.batch_size}
    if sizes.num_contrasted(config):
        batches["consistency_batch"] = min(config.consistency_batch, config.batch_size)
    if sizes.num_triples:
        batches["knowledge_batch"] = config.knowledge_batch
    for name, size in batches.items():
        if size % devices:
            found.append(f"--{name} must be a multiple of the {devices} devices: got {size}.")
    return found
