"""Build the emulator core (until the project's own setup.py takes it over)."""

from glob import glob

from setuptools import Extension, setup

NATIVE = "envs/mario/native"
NAMES = ("bus", "c_api", "cartridge", "console", "cpu", "game", "kernels", "observe", "ppu", "vector")

setup(
    name="mario-core",
    packages=[],
    ext_modules=[
        Extension(
            "envs.mario.native._core",
            sources=[f"{NATIVE}/{name}.cpp" for name in NAMES],
            depends=sorted(glob(f"{NATIVE}/*.hpp")),
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"],
            extra_link_args=["-pthread"],
            language="c++",
        )
    ],
)
