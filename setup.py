"""Install with `pip install -e .`; what is written in C++ is compiled on the way (needs a C++17 compiler).

`make wheel` builds a wheel for Linux on x86-64 that needs no compiler, the same for every Python. The rooms `ppo`,
`envs`, `utils`, `scripts` and `data` are top-level names: install it where nothing else claims them, best into an
environment of its own.
"""

from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = "envs/mario/native"
FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
NAMES = ("bus", "c_api", "cartridge", "console", "cpu", "game", "kernels", "observe", "ppu", "translator", "vector")


class Libraries(build_ext):
    """The shared libraries use nothing of Python (ctypes loads them), so their file names say no version."""

    def get_ext_filename(self, fullname):
        """Return the path of a library, such as ppo/compute/_native.so."""
        return fullname.replace(".", "/") + ".so"


class Wheel(bdist_wheel):
    """One wheel for every Python 3, but for one system and processor."""

    def get_tag(self):
        """Return the interpreter, the interface and the platform that the file name says."""
        return ("py3", "none", super().get_tag()[2])


setup(
    name="mario-ppo",
    version="0.1.0",
    description="PPO on Super Mario Bros over MPI: a research codebase in the manner of Spinning Up",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        *("ppo", "ppo.compute", "envs", "envs.atari", "envs.mario", "envs.mario.native", "utils", "utils.analysis"),
        *("scripts", "scripts.benchmark", "scripts.lesson", "data"),
    ],
    # What the code needs of the folder that runs are written to in a checkout.
    package_data={
        "data": [
            *("pretrained/*/policy.safetensors", "pretrained/*/*.json", "pretrained/*/README.md"),
            *("pretrained/near/*/policy.safetensors", "pretrained/near/*/*.json", "pretrained/near/*/README.md"),
            "demonstrations/*.json",
        ]
    },
    entry_points={"console_scripts": ["mario-ppo = scripts.__main__:main"]},
    cmdclass={"build_ext": Libraries, "bdist_wheel": Wheel},
    install_requires=[
        "torch>=2.10",
        "numpy>=1.26",
        "scipy",
        "gymnasium>=1.1",
        # The ROM files, found by their SHA-256 (envs/mario/stages.py), from wheels only: the first has all six. What it
        # asks for has no wheel for Python 3.14 (pygame); the second has the two games of v0 and begins at 3.13.
        "gymnasium-mariobros==1.0.1; python_version < '3.14'",
        "gym-super-mario-bros>=9.1,<10; python_version >= '3.14'",
        "opencv-python-headless",
        "joblib",
        "matplotlib",
        "tqdm",
        "safetensors",
        "filelock",
    ],
    extras_require={
        # nes-py with the environment of published results. It also needs numpy<2, which cannot stand here, as
        # gymnasium-mariobros asks for numpy 2 (not for its files): `pip install "numpy<2"` after it, or the lock file.
        "reference": [
            "gym==0.26.2; python_version < '3.13'",
            "gym-super-mario-bros==7.4.0; python_version < '3.13'",
            "nes-py==8.2.1; python_version < '3.13'",
        ],
        "mpi": ["mpi4py>=4", "mpich"],
        "completion": ["argcomplete"],
        "dev": [
            "argcomplete",
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            "rliable",
            "pandas<3",
            "imageio-ffmpeg",
            "nbclient",
            "ipykernel",
        ],
        "atari": ["ale-py>=0.12,<0.13"],
        # Only its library is used: `pip install --no-deps` of the same spares gym3 and the old versions that it pins.
        "procgen": ["procgen-mirror==0.10.7"],
        # Gymnasium knows which versions of its simulators fit, and what draws their pictures.
        "classic": ["gymnasium[classic-control]"],
        "box2d": ["gymnasium[box2d]"],
        "mujoco": ["gymnasium[mujoco]"],
        "tensorboard": ["tensorboard"],
        "wandb": ["wandb"],
        "search": ["optuna>=4"],
        "notebook": ["notebook", "imageio-ffmpeg"],
        "bench": ["stable-baselines3==2.9.2", "sb3-contrib==2.9.2"],
    },
    ext_modules=[
        Extension(
            "envs.mario.native._core",
            sources=[f"{NATIVE}/{name}.cpp" for name in NAMES],
            depends=sorted(glob(f"{NATIVE}/*.hpp")),
            # The interpreter's switch over opcodes as a tree of branches: with a jump table it was 0.83 times as fast.
            extra_compile_args=[*FLAGS, "-fno-jump-tables"],
            extra_link_args=["-pthread"],
            language="c++",
        ),
        Extension(
            "ppo.compute._native",
            sources=["ppo/compute/convolutions.cpp", "ppo/compute/arrays.cpp"],
            depends=sorted(glob("ppo/compute/*.hpp")),
            extra_compile_args=[*FLAGS, "-fno-math-errno"],  # square roots without a look at errno, of whole vectors
            language="c++",
        ),
    ],
)
