"""Peak memory, as the system counts it: of a training step, of every subject in a process of its own.

Linux only: the high-water mark of resident memory is reset before the step and read after it.
"""

import contextlib
import gc
import re
from pathlib import Path

SELF = Path("/proc/self")
WARM = (8, 8, 64, 64)  # T, N, I, H: libraries are loaded and kernels compiled, and little memory is touched


def resident(name: str) -> float:
    """VmRSS or VmHWM in MB."""
    return int(re.search(rf"{name}:\s+(\d+)", (SELF / "status").read_text())[1]) / 1e3


def peaks(chosen, job) -> dict:
    """MB of the first step of that size and of the third, beyond what was resident before the first."""
    try:
        (SELF / "clear_refs").write_text("5")
    except OSError as error:
        return {"error": f"peak memory is not measured here: {error}"}
    small = chosen.prepare(job._replace(T=WARM[0], N=WARM[1], I=WARM[2], H=WARM[3], size="warm"))
    prepared = chosen.prepare(job)
    if small is None or prepared is None:
        return {"skip": True}
    for _ in range(3):
        small.run()
    del small
    prepared.compile()  # without running: buffers are then made by the first step
    gc.collect()
    before, found = resident("VmRSS"), []
    for _ in range(3):
        (SELF / "clear_refs").write_text("5")
        result = prepared.run()
        found.append(resident("VmHWM") - before)
        del result
    return {"first": found[0], "third": found[2]}


def rows(jobs: list, names: list[str], start) -> list[dict]:
    """One row a job, subject and step; `start` makes a fresh process."""
    result = []
    for job in jobs:
        print(f"\n{job}: MB beyond inputs and parameters, first step and third", flush=True)
        for name in names:
            with contextlib.suppress(RuntimeError), start(name) as subject:
                answer = subject.ask({"do": "memory", "job": job})
                if "first" in answer:
                    print(f"  {name:26}{answer['first']:10.1f}{answer['third']:10.1f}", flush=True)
                    common = job._asdict() | {"subject": name, "unit": "MB"}
                    result += [common | {"way": f"{k} step", "median": answer[k]} for k in ("first", "third")]
                elif "error" in answer:
                    print(f"  {name:26}left out ({answer['error']})", flush=True)
    return result
