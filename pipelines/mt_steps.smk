# The steps of a run on Multi30k, what mt.smk and pipelined.smk share; needs PLAN, RUNS and RESULTS.
# Every rule starts a pipeline of scripts/mt for one of its steps. A training goes on from its last checkpoint, which is no
# output of a rule, since Snakemake removes those of a failed run: the output is the training's record, written at its end.
DATASET = PLAN.settings.dataset
DATA_BIN = os.environ.get("DATA_BIN") or f"data-bin/{DATASET}"  # as scripts/mt/lib.sh has it
DICTIONARY = ROOT / DATA_BIN / "dict.en.txt"


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
        lambda w: [*needed(DICTIONARY), *PLAN.tunable(asked(w))],
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
