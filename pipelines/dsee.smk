# The same BERT finetuned by LoRA and by DSEE: train (stage I) -> prune and train on (stages II and III) -> table.
# One stage I serves all that is pruned.
#   snakemake -s pipelines/dsee.smk --cores 1 -n
#   snakemake -s pipelines/dsee.smk --cores 2 --config tasks="CoLA MRPC" seeds="1 2 3" only=CoLA/heads
# The programs go on from their last checkpoint, which is no output of a rule: Snakemake removes those of a failed run.
include: "common.smk"

from pipelines.plans.dsee import DseePlan as Plan
from pipelines.plans.dsee_tables import SPEED


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.options.runs, PLAN.options.results


include: "bert.smk"


METHODS = PLAN.settings.methods
FIRST = names_of(method for method, how in METHODS.items() if "source" not in how) + r"-seed\d+"
PRUNED = names_of(method for method, how in METHODS.items() if "source" in how) + r"-seed\d+"


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
        run=FIRST,
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w))),
    shell:
        RUN + TIDY


# Stages II and III; the score between them is a record, too.
rule prune:
    input:
        lambda w: PLAN.source_of(asked(w)),
    output:
        f"{RESULTS}/{{task}}/{{run}}/{{set}}/results.json",
    wildcard_constraints:
        run=PRUNED,
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w))),
    shell:
        RUN + TIDY


# Stages II and III again, where a clone has their records and no file.
use rule prune as prune_again with:
    output:
        f"{RUNS}/{{task}}/{{run}}/3rd/{{model_file}}",
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w), RUNS / "records")),


# With all cores, so that nothing else runs meanwhile.
rule speed:
    input:
        lambda w: PLAN.measured_from(asked(w)),
    output:
        f"{RESULTS}/{{task}}/{{run}}/{SPEED}/{{set}}/results.json",
    wildcard_constraints:
        run=f"{FIRST}|{PRUNED}",
    threads: CORES
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.measuring(asked(w))),
    shell:
        RUN + TIDY
