# Every method of head pruning and every budget on Multi30k: data -> train -> prune -> tune -> score -> table.
#   snakemake -s pipelines/mt.smk --cores 1 -n
#   snakemake -s pipelines/mt.smk --cores 4 --config only=small/joint seeds="1 2 3"
#   snakemake -s pipelines/mt.smk --cores 1 --config speed=1         also the decoding speed of all, at the end
# Every rule starts a pipeline of scripts/mt for one of its steps. A training goes on from its last checkpoint, which is no
# output of a rule, since Snakemake removes those of a failed run: the output is the training's record, written at its end.
include: "common.smk"

from pipelines.plans.mt import MTPlan as Plan


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.options.runs, PLAN.options.results
DATASET = PLAN.settings.dataset
DATA_BIN = os.environ.get("DATA_BIN") or f"data-bin/{DATASET}"  # as scripts/mt/lib.sh has it
DICTIONARY = ROOT / DATA_BIN / "dict.en.txt"
MEASURED = f"{RUNS}/speed.done"


wildcard_constraints:
    model="|".join(PLAN.settings.models),
    run="[^/]+",
    subset="|".join(PLAN.settings.sets),


def name(wildcards):
    return f"{wildcards.model}/{wildcards.run}"


def asked(wildcards):
    return PLAN.known[name(wildcards)]


def step(steps):
    """Return the command of a rule: these steps of the run's pipeline, on one set where the rule is for one."""
    return lambda w: shlex.join(PLAN.command(asked(w), steps, **({"SUBSETS": w.subset} if "subset" in w.keys() else {})))


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


rule data:
    output:
        str(DICTIONARY),
    params:
        name=DATA_BIN,
        log=f"{RUNS}/data.log",
        command=shlex.join([f"data-prep/prepare-{DATASET}.sh", "--dest", DATA_BIN]),
    shell:
        RUN


rule train:
    input:
        lambda w: [*needed(DICTIONARY), *PLAN.source_of(asked(w))],
    output:
        f"{RUNS}/{{model}}/{{run}}/results.json",
    params:
        name=lambda w: f"{name(w)} train",
        log=f"{RUNS}/{{model}}/{{run}}/train.log",
        command=step("train"),
    shell:
        RUN


rule prune:
    input:
        lambda w: [*needed(DICTIONARY), *PLAN.trained(asked(w))],
    output:
        f"{RUNS}/{{model}}/{{run}}/checkpoint_pruned.pt",
    params:
        name=lambda w: f"{name(w)} prune",
        log=f"{RUNS}/{{model}}/{{run}}/prune.log",
        command=step("prune"),
    shell:
        RUN


rule tune:
    input:
        lambda w: [*needed(DICTIONARY), *needed(PLAN.checkpoint(asked(w)))],
    output:
        f"{RUNS}/{{model}}/{{run}}/tuned/results.json",
    params:
        name=lambda w: f"{name(w)} tune",
        log=f"{RUNS}/{{model}}/{{run}}/tune.log",
        command=step("tune"),
    shell:
        RUN


rule score:
    input:
        lambda w: [*needed(DICTIONARY), *PLAN.scorable(asked(w))],
    output:
        f"{RESULTS}/{{model}}/{{run}}/{{subset}}/results.json",
    params:
        name=lambda w: f"{name(w)} score {w.subset}",
        log=f"{RUNS}/{{model}}/{{run}}/score-{{subset}}.log",
        command=step("score"),
    shell:
        RUN


rule score_tuned:
    input:
        lambda w: [*needed(DICTIONARY), *needed(PLAN.folder(asked(w)) / "tuned/results.json")],
    output:
        f"{RESULTS}/{{model}}/{{run}}/{{subset}}-tuned/results.json",
    params:
        name=lambda w: f"{name(w)} score {w.subset}-tuned",
        log=f"{RUNS}/{{model}}/{{run}}/score-{{subset}}-tuned.log",
        command=step("score-tuned"),
    shell:
        RUN


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
