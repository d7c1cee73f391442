# Every method of head pruning and every budget on Multi30k: data -> train -> prune -> tune -> score -> table.
#   snakemake -s pipelines/mt.smk --cores 1 -n
#   snakemake -s pipelines/mt.smk --cores 4 --config only=small/joint seeds="1 2 3"
#   snakemake -s pipelines/mt.smk --cores 1 --config speed=1         also the decoding speed of all, at the end
include: "common.smk"

from pipelines.plans.mt import MTPlan as Plan


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.options.runs, PLAN.options.results
MEASURED = f"{RUNS}/speed.done"


# Made anew whenever a run was asked for, or where the records say something else.
rule table:
    input:
        PLAN.wanted(),
        MEASURED if PLAN.options.speed else [],
    output:
        [] if PLAN.options.speed else PLAN.table_files(),
    localrule: True
    run:
        Path(MEASURED).unlink(missing_ok=True)  # speed is measured whenever it is asked for
        PLAN.write_tables()


include: "mt_steps.smk"


# One model at a time against all others, so nothing else may run beside it.
rule speed:
    input:
        PLAN.wanted(),
    output:
        touch(MEASURED),
    threads: workflow.cores
    params:
        name="speed",
        log=f"{RUNS}/speed.log",
        command=shlex.join(["python", "pipelines/speed.py", *(f"{key}={value}" for key, value in config.items())]),
    shell:
        RUN
