# A pretrained BERT on GLUE tasks and SQuAD, every method of head pruning: train -> prune -> table.
#   snakemake -s pipelines/glue.smk --cores 1 -n
#   snakemake -s pipelines/glue.smk --cores 2 --config tasks="SST-2 RTE" budgets="54 36 18 9" seeds="1 2 3"
# The programs go on from their last checkpoint, which is no output of a rule: Snakemake removes those of a failed run.
include: "common.smk"

from pipelines.plans.glue import GluePlan as Plan


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.options.runs, PLAN.options.results


include: "bert.smk"


METHODS = PLAN.settings.methods
FROM_UNPRUNED = [method for method, how in METHODS.items() if how.get("from_unpruned")]
RUN_OF_METHOD = r"(-K[^/]*)?-seed\d+"


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
    input:
        lambda w: PLAN.source_of(asked(w)),
    output:
        f"{RESULTS}/{{task}}/{{run}}/{{set}}/results.json",
    wildcard_constraints:
        run=names_of(method for method in METHODS if method not in FROM_UNPRUNED) + RUN_OF_METHOD,
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w))),
    shell:
        RUN + TIDY


# From a trained model: its choice of heads alone, or the heads by importance; all budgets of the latter at once.
use rule train as prune with:
    wildcard_constraints:
        run=names_of(FROM_UNPRUNED) + RUN_OF_METHOD,
