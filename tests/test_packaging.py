"""The wheel holds what it should and works from another folder; `kernels` never becomes a global package."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

IMPORT = """
import sys
import slif_jax
import slif_jax.ops
assert not [name for name in sys.modules if name == "kernels" or name.startswith("kernels.")]
print(slif_jax.__file__)
"""


def test_importing_makes_no_global_package_of_kernels():
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_touches_no_device_and_defines_no_flag():
    code = (
        "import slif_jax.train, jax, sys\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
        "from absl import flags\n"
        "mine = [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith('slif_jax')]\n"
        "assert not mine, mine\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(target.glob("*.whl"))


def test_the_wheel_holds_the_library_and_every_kernel(wheel: Path):
    assert wheel.name.startswith("slif_jax-")
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    for folder in sorted(path.parent.name for path in (ROOT / "kernels").glob("*/__init__.py")):
        assert f"slif_jax/kernels/{folder}/__init__.py" in names
    assert "slif_jax/py.typed" in names
    for package in ("data", "report", "studies"):
        assert f"slif_jax/{package}/__init__.py" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"slif_jax"}


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import slif_jax, numpy as np\n"
        "assert slif_jax.__file__.startswith(sys.argv[1]), slif_jax.__file__\n"
        "from slif_jax import ops\n"
        "graph = ops.build_graph([0, 1], [1, 1], [1.0, 2.0], num_senders=2, num_receivers=2)\n"
        "out = ops.spmm(graph, np.array([[1.0], [10.0]], np.float32))\n"
        "assert out.tolist() == [[0.0], [21.0]], out\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
