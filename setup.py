"""Install with `pip install -e .`; what is written in C++ is compiled on the way (needs a C++17 compiler).

Only the editable install is supported: the rooms `utils`, `data` and `scripts` are top-level names, which would
collide with others in a shared site-packages.
"""

from glob import glob

from setuptools import Extension, setup

NATIVE = "envs/mario/native"
FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
NAMES = ("bus", "c_api", "cartridge", "console", "cpu", "game", "kernels", "observe", "ppu", "translator", "vector")

setup(
    name="mario-ppo",
    version="0.1.0",
    description="PPO on Super Mario Bros over MPI: a research codebase in the manner of Spinning Up",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=[
        *("ppo", "ppo.compute", "envs", "envs.atari", "envs.mario", "envs.mario.native", "utils", "utils.analysis"),
        "scripts",
    ],
    install_requires=[
        "torch>=2.10",
        "numpy<2",
        "scipy",
        "gymnasium>=1.1",
        "gym==0.26.2",
        "gym-super-mario-bros==7.4.0",
        "nes-py==8.2.1",
        "opencv-python-headless",
        "joblib",
        "matplotlib",
        "tqdm",
        "safetensors",
        "filelock",
    ],
    extras_require={
        "mpi": ["mpi4py>=4", "mpich"],
        "dev": ["pytest", "ruff", "mypy", "rliable", "pandas<3", "imageio-ffmpeg", "nbclient", "ipykernel"],
        "atari": ["ale-py>=0.12,<0.13"],
        # Only its library is used: `pip install --no-deps` of the same spares gym3 and the old versions that it pins.
        "procgen": ["procgen-mirror==0.10.7"],
        "tensorboard": ["tensorboard"],
        "notebook": ["notebook", "imageio-ffmpeg"],
        "bench": ["stable-baselines3==2.9.2"],
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
            depends=["ppo/compute/team.hpp"],
            extra_compile_args=[*FLAGS, "-fno-math-errno"],  # square roots without a look at errno, of whole vectors
            language="c++",
        ),
    ],
)
