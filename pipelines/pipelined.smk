# The heads of one trained model, chosen by every method, untuned and tuned alike: base -> sweep, train -> prune -> tune ->
# score -> table.
#   snakemake -s pipelines/pipelined.smk --cores 1 -n
#   snakemake -s pipelines/pipelined.smk --cores 2 --config unpruned=checkpoint_best.pt budgets=9 only=trained/auto
include: "common.smk"

from pipelines.plans.pipelined import PipelinedPlan as Plan


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.options.runs, PLAN.options.results


onstart:
    PLAN.note_settings()


# Made anew whenever a run was asked for, or where the records say something else.
rule table:
    input:
        PLAN.wanted(),
    output:
        PLAN.table_files(),
    localrule: True
    run:
        PLAN.write_tables()


include: "mt_steps.smk"


# One for several numbers of heads.
rule sweep:
    input:
        lambda w: [*needed(DICTIONARY), *PLAN.source_of(asked(w))],
    output:
        f"{RUNS}/{{model}}/{{run}}/sweep/results.json",
    params:
        name=lambda w: f"{name(w)} sweep",
        log=f"{RUNS}/{{model}}/{{run}}/sweep.log",
        command=step("sweep"),
    shell:
        RUN
