"""Build the emulator core (until the project's own setup.py takes it over)."""

from setuptools import Extension, setup

NATIVE = "envs/mario/native"
SOURCES = [f"{NATIVE}/{name}.cpp" for name in ("bus", "c_api", "cartridge", "console", "cpu", "ppu")]

setup(
    name="mario-core",
    packages=[],
    ext_modules=[
        Extension(
            "envs.mario.native._core",
            sources=SOURCES,
            depends=[f"{NATIVE}/{name}.hpp" for name in ("archive", "bus", "cartridge", "console", "cpu", "palette", "ppu")],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra"],
            extra_link_args=["-pthread"],
            language="c++",
        )
    ],
)
