# What all pipelines include: the repository, the interpreter of the programs, and how a rule starts one of them.
import importlib.util
import os
import shlex
import sys
from pathlib import Path

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DSP_STARTED_IN", os.getcwd())  # of folders that the user names; the same in Snakemake's own processes


workdir: str(ROOT)


from pipelines.plans.base import needed

# Snakemake may have an environment of its own: programs run where torch is.
if "python" not in config:
    here = sys.executable if importlib.util.find_spec("torch") else None
    config["python"] = here or next((str(p) for p in [ROOT / ".venv/bin/python"] if p.is_file()), "python3")
PYTHON = config["python"]

# `--cores N` is N runs side by side; they share the processors, and one alone takes what its libraries choose.
CORES = workflow.cores or 1
THREADS = os.environ.get("OMP_NUM_THREADS", "")
if not THREADS and CORES > 1 and workflow.is_main_process:  # on a node of a cluster one run has what the job was given
    THREADS = str(max(1, os.cpu_count() // CORES))

# params.name, params.log and params.command belong to every rule that starts a program
RUN = (
    f"{shlex.quote(PYTHON)} {shlex.quote(str(ROOT / 'pipelines/job.py'))} {{params.name:q}} {{params.log:q}}"
    f"{' --threads ' + THREADS if THREADS else ''} -- {{params.command}}"
)


def planned(make):
    """Make the plan and look at it before the first run; what cannot be ends the program with one line."""
    try:
        plan = make({name: value for name, value in config.items() if value is not None})
        plan.listing = workflow.output_settings.dryrun
        if workflow.is_main_process:
            plan.check()
            if not plan.listing:
                plan.check_inputs()
        return plan
    except ValueError as error:
        sys.exit(f"{Path(workflow.main_snakefile).name}: error: {error}")


def finish(plan, failed):
    """Write the tables from what is there, and name the runs that are left."""
    print(plan.write_tables())
    if failed:
        names = "".join(f"\n  {run.name}" for run in plan.left())
        print(f"some runs failed: see their logs under {plan.options.runs}; not done are{names}", file=sys.stderr)


onsuccess:
    finish(PLAN, failed=False)


onerror:
    finish(PLAN, failed=True)
