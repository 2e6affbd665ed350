"""What the programs share: flags made from `Config`, and one clear line where something is wrong."""

import contextlib
import dataclasses
import errno
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from experiments.stopping import STATUS, end_at_once
from slif_jax import multihost
from slif_jax.clusters import LaunchWarning
from slif_jax.config import Config
from slif_jax.data import DataError, DataWarning
from slif_jax.workdir import CheckpointWarning, Stopped, WorkdirError

USAGE_ERROR = 2
HOST_LOST = STATUS[signal.SIGTERM]  # the same command goes on
LAUNCH_FLAGS = (
    "multihost",
    "coordinator_address",
    "num_processes",
    "process_id",
    "local_device_ids",
    "init_timeout",
    "heartbeat_timeout",
)


def define_config_flags(
    values: flags.FlagValues = flags.FLAGS, defaults: Config | None = None, *, names: Sequence[str] | None = None
) -> None:
    """Defines one flag per field of `Config`.

    Args:
      values: where the flags are defined; the program's own, if not given.
      defaults: values of flags that are not set; None takes those of `Config`.
      names: the fields to define a flag for; None takes all.
    """
    for field in dataclasses.fields(Config):
        if names is not None and field.name not in names:
            continue
        value: Any = field.default
        text = field.metadata["help"]
        if defaults is not None:
            value = getattr(defaults, field.name)
        choices = field.metadata.get("choices")
        if isinstance(value, bool):
            flags.DEFINE_boolean(field.name, value, text, flag_values=values)
        elif isinstance(value, int):
            flags.DEFINE_integer(field.name, value, text, flag_values=values)
        elif isinstance(value, float):
            flags.DEFINE_float(field.name, value, text, flag_values=values)
        elif isinstance(value, tuple):
            flags.DEFINE_list(field.name, ",".join(map(str, value)) or "none", text, flag_values=values)
        elif choices:
            flags.DEFINE_enum(field.name, value, choices, text, flag_values=values)
        else:
            flags.DEFINE_string(field.name, value, text, flag_values=values)


def config_from_flags(values: flags.FlagValues = flags.FLAGS, *, names: Sequence[str] | None = None) -> Config:
    """The `Config` that the flags describe.

    Args:
      values: with the flags of `define_config_flags`.
      names: the fields that have a flag, the others take their default; None: all have.

    Returns:
      The configuration.

    Raises:
      ValueError: where a value is out of range.
    """
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        if names is not None and field.name not in names:
            continue
        value: Any = values[field.name].value
        if isinstance(field.default, tuple):
            value = _as_tuple(field.name, value, integers=isinstance(field.default[0], int))
        fields[field.name] = value
    return Config(**fields)


def _as_tuple(name: str, values: Sequence[str], *, integers: bool) -> tuple[Any, ...]:
    words = [word.strip() for word in values if word.strip()]
    if not integers:
        return tuple(words) if words != ["none"] or name == "modalities" else ()
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise ValueError(f"--{name} must be integers with commas between them: got '{','.join(values)}'.") from None


def changed_config(config: Config, text: str, *, flag: str) -> Config:
    """A configuration with some flags set differently.

    Args:
      config: values of the flags that `text` does not name.
      text: flags as they are typed, such as '--noself_loop --width=32'.
      flag: the flag that holds the text, for messages.

    Returns:
      The other configuration.

    Raises:
      ValueError: where a flag is unknown, or its value is out of range.
    """
    values = flags.FlagValues()
    define_config_flags(values, config)
    try:
        rest = values(["", *shlex.split(text)])[1:]
    except (flags.Error, ValueError) as error:
        raise ValueError(f"--{flag}: {error}") from None
    if rest:
        raise ValueError(f"--{flag} must be flags, each with its --: got '{rest[0]}'.")
    return config_from_flags(values)


def define_run_flags() -> None:
    """Flags that every program that needs JAX and data has."""
    flags.DEFINE_string("data_dir", None, "Where fetched data sets are kept; default: the user's cache folder.")
    flags.DEFINE_enum(
        "implementation",
        "auto",
        ("auto", "native", "xla", "reference"),
        "Sparse kernels; auto: the fastest that works here.",
    )
    flags.DEFINE_string(
        "compilation_cache_dir", None, "Keep compiled programs here, so that the next start is quicker."
    )


def set_up_jax() -> None:
    """Applies the flags that concern JAX itself; before the first compilation."""
    folder = flags.FLAGS.compilation_cache_dir
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))


def define_launch_flags() -> None:
    """Flags that say which processes are one run; `several_hosts` applies them."""
    flags.DEFINE_enum(
        "multihost",
        "auto",
        multihost.MODES,
        "auto: join the other processes where the flags below or the launcher (srun, mpirun of Open MPI 4, Cloud TPU, "
        "a Kubernetes Job) say that there are some; on: fail where there are none; off: one process.",
    )
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0, the same for all; default: what the launcher says."
    )
    flags.DEFINE_integer("num_processes", None, "Processes of the run; with --process_id.", lower_bound=1)
    flags.DEFINE_integer(
        "process_id", None, "Number of this process, from 0; the only flag that differs.", lower_bound=0
    )
    flags.DEFINE_list(
        "local_device_ids",
        None,
        "GPUs of this process by their number on its host, as in 0,1,2,3; default: all, but under srun and mpirun ONE, "
        "that of the process's local number.",
    )
    flags.DEFINE_integer(
        "init_timeout", 300, "Seconds to wait for the other processes at the start; 1800 for hundreds.", lower_bound=1
    )
    flags.DEFINE_integer(
        "heartbeat_timeout", 100, "Seconds after which a silent process counts as lost and all end.", lower_bound=1
    )


@contextlib.contextmanager
def several_hosts() -> Iterator[multihost.Hosts]:
    """Joins the other processes of the run, and ends with them; before anything touches a device.

    An error in one of several processes ends it at once, with the status that `run` would give: the others hang in a
    collective then, and JAX ends them after --heartbeat_timeout. In one process errors go their ordinary way.

    Yields:
      Who takes part.

    Raises:
      ValueError: where the flags contradict each other, or the processes cannot be joined.
    """
    values = flags.FLAGS
    ids = values.local_device_ids
    hosts = multihost.initialize(
        values.multihost,
        values.coordinator_address,
        values.num_processes,
        values.process_id,
        None if ids is None else _as_tuple("local_device_ids", ids, integers=True),
        values.init_timeout,
        values.heartbeat_timeout,
    )
    if hosts.count == 1:
        yield hosts
        return
    print(f"Process {hosts.index} of {hosts.count}: {hosts.how}", file=sys.stderr)
    try:
        with multihost.lost_hosts_are_named():
            yield hosts
    except Stopped:  # all of them have
        raise
    except Exception as error:
        if isinstance(error, multihost.HostLostError):
            complain(str(error))
            multihost.leave(HOST_LOST)
        if _is_for_users(error):
            multihost.leave(complain(str(error)))
        traceback.print_exc()
        multihost.leave(1)


def flags_text() -> str:
    """This program's flags as a flagfile that repeats the run, also on other machines, and never removes one."""
    defined: list[str] = []
    for module, module_flags in flags.FLAGS.flags_by_module_dict().items():
        if module == sys.argv[0] or module.startswith(("experiments", "__main__")):
            kept = [
                flag for flag in module_flags if flag.value is not None and flag.name not in (*LAUNCH_FLAGS, "resume")
            ]
            defined += [flag.serialize() for flag in kept]
    return "".join(line + "\n" for line in sorted(defined))


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags and runs `main`; exit status 2 and one line for everything a user can mend.

    Args:
      main: the program; its return value is the exit status.
    """

    def guarded(argv: Sequence[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        warnings.showwarning = _show_warning
        try:
            if len(argv) > 1:
                raise ValueError(f"Unexpected argument '{argv[1]}': every setting is a flag (see --help).")
            return main() or 0
        except (ValueError, OSError, FloatingPointError, MemoryError, ModuleNotFoundError) as error:
            if not _is_for_users(error):
                raise
            return complain((str(error) or "Out of memory.") + _remedy(error))
        except KeyboardInterrupt:
            end_at_once(signal.SIGINT)

    app.run(guarded, flags_parser=_parse)


_show_other_warning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """What concerns data, hosts and checkpoints is one line for users, without a place in the code."""
    if issubclass(category, CheckpointWarning | DataWarning | LaunchWarning):
        print(f"Warning: {message}", file=sys.stderr)
    else:
        _show_other_warning(message, category, *where, **more)


def _is_for_users(error: Exception) -> bool:
    """Whether one line says it all: what a user gave is wrong, not the program."""
    if isinstance(error, DataError | WorkdirError | OSError | FloatingPointError | MemoryError):
        return True
    return isinstance(error, ValueError | ModuleNotFoundError) and _is_ours(error)


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ". What was written before is intact: free space, and the same command goes on."
    return ""


def _is_ours(error: BaseException) -> bool:
    """Whether the message was written for users: raised by this project, not inside a library."""
    trace = error.__traceback__
    module = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return module.startswith(("slif_jax", "experiments", "__main__"))


def complain(text: str) -> int:
    """Prints one line to standard error and gives the exit status of a mistake in the input."""
    print("Error: " + " ".join(text.split()), file=sys.stderr)
    return USAGE_ERROR


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        sys.exit(complain(str(error)))
