"""`python -m slif_jax.info`: versions, devices, and which sparse kernels are here and why any is not."""

from slif_jax import ops
from slif_jax.kernels import dispatch
from slif_jax.workdir import environment


def describe() -> str:
    """The text that the program prints."""
    found = environment()
    lines = [f"python {found['python']}, {found['platform']}, {found['cpu_count']} CPUs"]
    lines += [f"{package} {version or 'is not installed'}" for package, version in found["packages"].items()]
    lines += [f"device {number}: {device}" for number, device in enumerate(found["devices"])]
    for op in dispatch.OPS:
        here = [name for name in dispatch.NAMES[op] if ops.is_supported(op, name)]
        lines.append(f"{op}: uses {dispatch.default_order(op)[0]}; here: {', '.join(here)}")
        lines += [f"  {name} is absent: {ops.why_not(op, name)}" for name in dispatch.NAMES[op] if name not in here]
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
