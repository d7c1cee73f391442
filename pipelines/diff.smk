# The same BERT finetuned by sparse diffs: train (stage 1, or a baseline) -> prune (stage 2) -> tune (stage 3) -> table.
# One stage 1 serves all densities.
#   snakemake -s pipelines/diff.smk --cores 1 -n
#   snakemake -s pipelines/diff.smk --cores 2 --config tasks="CoLA RTE" densities="0.01 0.005" seeds="1 2 3"
# The programs go on from their last checkpoint, which is no output of a rule: Snakemake removes those of a failed run.
include: "common.smk"

from pipelines.plans.diff import MASK, DiffPlan as Plan


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.options.runs, PLAN.options.results


include: "bert.smk"


METHODS = PLAN.settings.methods
DENSITY = names_of(method for method, how in METHODS.items() if "method" in how) + r"-\d[^/]*"


# Made anew whenever a run was asked for, or where the records say something else.
rule table:
    input:
        PLAN.wanted(),
    output:
        PLAN.table_files(),
    localrule: True
    run:
        PLAN.write_tables()


rule train:
    output:
        f"{RESULTS}/{{task}}/{{run}}/{{set}}/results.json",
    wildcard_constraints:
        run=names_of(method for method, how in METHODS.items() if "options" in how) + "-seed[^/]*",
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w))),
    shell:
        RUN + TIDY


# The largest changes: a mask, and the score of what is left.
rule prune:
    input:
        lambda w: PLAN.source_of(asked(w)),
    output:
        f"{RESULTS}/{{task}}/{{run}}/projected/{{set}}/results.json",
    wildcard_constraints:
        run=DENSITY,
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.projection(asked(w))),
    shell:
        RUN


# Likewise, where a clone has its records and no mask.
use rule prune as prune_again with:
    output:
        f"{RUNS}/{{task}}/{{run}}/{MASK}",


rule tune:
    input:
        lambda w: PLAN.mask_of(asked(w)),
    output:
        f"{RESULTS}/{{task}}/{{run}}/{{set}}/results.json",
    wildcard_constraints:
        run=DENSITY,
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.tuning(asked(w))),
    shell:
        RUN + TIDY
