"""Maps `kernels/` to `slif_jax.kernels` and builds the native CPU kernels where there is a C++ compiler (BUILD.md)."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


def _jaxlib_include() -> str | None:
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        return None
    return str(Path(next(iter(spec.submodule_search_locations))) / "include")


def _native() -> list[Extension]:
    include = _jaxlib_include()
    if include is None:
        print("slif_jax: jaxlib's headers were not found; installing without the native CPU kernels.", file=sys.stderr)
        return []
    return [
        Extension(
            "slif_jax.kernels.native.slif_native",
            sources=["kernels/native/kernels.cc"],
            depends=[str(path) for path in Path("kernels/native").glob("*.inc")],
            include_dirs=[include],
            extra_compile_args=["-O3", "-g0", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast"],
            language="c++",
            optional=True,
        )
    ]


class BuildExt(build_ext):
    """The library holds no Python: it is loaded with ctypes, so its name carries no Python version."""

    def get_ext_filename(self, fullname: str) -> str:
        suffix = ".dll" if sys.platform == "win32" else ".so"
        return str(Path(*fullname.split("."))) + suffix


class BdistWheel(bdist_wheel):
    """One wheel serves every Python 3 on a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


kernels = [f"slif_jax.kernels.{name}" for name in find_packages("kernels")]
setup(
    packages=["slif_jax", "slif_jax.data", "slif_jax.report", "slif_jax.studies", "slif_jax.kernels", *kernels],
    package_dir={"slif_jax.kernels": "kernels"},
    package_data={
        "slif_jax": ["py.typed"],
        "slif_jax.kernels": ["README.md"],
        "slif_jax.kernels.native": ["*.cc", "*.inc"],
    },
    ext_modules=_native(),
    cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel},
)
