# Prompt, BitFit and adapters, in every combination and order: masked language model, few-shot samples -> train -> table.
# The rate of a method is chosen on the development set of one seed, whose runs the other seeds wait for.
#   snakemake -s pipelines/delta.smk --cores 1 -n
#   snakemake -s pipelines/delta.smk --cores 2 --config tasks="SST-2 CoLA" seeds="13 42" parts=few only=SST-2/k16-prompt
# The programs go on from their last checkpoint, which is no output of a rule: Snakemake removes those of a failed run.
include: "common.smk"

from pipelines.plans.delta import DATA, FILE, MASKED, DeltaPlan as Plan


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.options.runs, PLAN.options.results


include: "bert.smk"


# Made anew whenever a run was asked for, or where the records say something else.
rule table:
    input:
        PLAN.wanted(),
    output:
        PLAN.table_files(),
    localrule: True
    run:
        PLAN.write_tables()


# What all runs begin with: a base that had no masked-LM head, pretrained for a limited time. Its record stays.
rule pretrain:
    output:
        f"{RUNS}/{MASKED}/config.json",
    params:
        name=MASKED,
        log=f"{RUNS}/{MASKED}.log",
        command=lambda w: shlex.join(PLAN.pretraining()),
    shell:
        RUN + f" && rm -rf {shlex.quote(f'{RUNS}/{MASKED}')}/checkpoint-*/"


# All seeds of a task at once: what CoLA's have depends on the ones before them.
rule samples:
    output:
        f"{RUNS}/{DATA}/{{mode}}/{{task}}/{{sample}}/train.tsv",
    wildcard_constraints:
        mode="k-shot(-10x)?",
        sample=r"\d+-\d+",
    params:
        name=lambda w: f"{w.mode} {w.task}",
        log=f"{RUNS}/{DATA}-{{mode}}-{{task}}.log",
        command=lambda w: shlex.join(PLAN.sampling(w.mode, w.task)),
    shell:
        RUN


# The file of a run is a few hundred kilobytes; where all weights learn, the model goes once it is scored.
rule train:
    input:
        lambda w: PLAN.source_of(asked(w)),
    output:
        f"{RESULTS}/{{task}}/{{run}}/{{set}}/results.json",
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w))),
    shell:
        RUN + TIDY + f" && rm -f {shlex.quote(str(RUNS))}/{{wildcards.task}}/{{wildcards.run}}/model.safetensors"


# What another run begins with, where a clone has its records and no file.
use rule train as delta_again with:
    output:
        f"{RUNS}/{{task}}/{{run}}/{FILE}",
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w), RUNS / "records")),
