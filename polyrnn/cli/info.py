"""`polyrnn info`: what there is on this machine, and what is missing for the rest."""

import json
import os
import platform
from typing import Annotated, Any

import typer

from ._words import print_row

PACKAGES = ("numpy", "array-api-compat", "safetensors", "numba", "typer", "rich", "matplotlib")
VARIABLES = (
    "POLYRNN_BACKEND",
    "POLYRNN_KERNELS",
    "POLYRNN_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
MARGIN = 20
REMEDIES = {"numba": "polyrnn[fast]", "typer": "polyrnn[cli]", "rich": "polyrnn[cli]", "matplotlib": "polyrnn[cli]"}


def info(
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON, for a program or a bug report.")] = False,
) -> None:
    """Show versions, backends, devices, kernels, and what would mend what cannot run."""
    facts = collect()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for part, rows in sections(facts):
        print(part)
        for name, words in rows:
            print_row(f"  {name}", words, MARGIN)
        print()


def collect() -> dict[str, Any]:
    """All of it, in values that JSON can hold."""
    import numpy

    from .. import __version__, available_backends
    from ..kernels import kernel_statuses, kernels_in_use
    from ..kernels._threads import threads

    blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "polyrnn": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "packages": {name: version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "default_backend": os.environ.get("POLYRNN_BACKEND") or "numpy",
        "backends": {name: found._asdict() for name, found in available_backends().items()},
        "kernels": kernels_in_use(),
        "kernel_statuses": [status._asdict() for status in kernel_statuses()],
        "threads": threads(),  # that compiled kernels may use
    }


def version(package: str) -> str | None:
    """The version of an installed package."""
    import importlib.metadata  # here, since it is slow

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def sections(facts: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings, with rows of a name and what there is to say about it."""
    here = [("polyrnn", facts["polyrnn"]), ("Python", facts["python"]), ("machine", facts["machine"])]
    for name, found in facts["packages"].items():
        extra = f", with {facts['blas']}" if name == "numpy" else ""
        here.append((name, found + extra if found else f'not installed; pip install "{REMEDIES.get(name, name)}"'))
    backends = []
    for name, found in facts["backends"].items():
        if found["available"]:
            default = " (the default)" if name == facts["default_backend"] else ""
            backends.append((name, f"{found['version']} on {', '.join(found['devices']) or 'no device'}{default}"))
        else:
            backends.append((name, f"cannot run here: {found['reason']}"))
            backends.append(("", f"to mend it: {found['remedy']}"))
    kernels = []
    for status in facts["kernel_statuses"]:
        mend = f"; to mend it: {status['remedy']}" if status["remedy"] else ""
        words = f"used for {status['why']}" if status["used"] else f"not used: {status['why']}{mend}"
        kernels.append((status["name"], words))
    if not facts["kernels"]:
        kernels.append(("", "the reference runs everywhere"))
    kernels.append(("threads", f"{facts['threads']}, of compiled kernels"))
    environment = list(facts["environment"].items()) or [("none", f"of {', '.join(VARIABLES)}")]
    return [
        ("Versions", here),
        ("Backends", backends),
        ("Kernels", kernels),
        ("Environment variables set", environment),
    ]
