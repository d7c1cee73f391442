# A translation model finetuned to another domain by sparse diffs, DSEE and Delta-Tuning, and both domains scored before, with
# and after them: text -> base -> train, prune, tune -> score -> table.
#   snakemake -s pipelines/domains.smk --cores 1 -n
#   snakemake -s pipelines/domains.smk --cores 1 --config home=iwslt14
#   snakemake -s pipelines/domains.smk --cores 1 --config quick=1 runs=/tmp/runs results=/tmp/results        a trial
# Compared: the base, a structured diff of 0.5 and of 5 %, a non-adaptive one of 0.5 %, all weights finetuned, an update of
# DSEE's before and after heads and neurons are removed, biases, adapters and both, and the base file after a pack has been applied to it and reverted. A
# training leaves the file `done` beside its checkpoints, from which one that was stopped goes on.
include: "common.smk"

from pipelines.plans.domain_rows import DELTA, PACK
from pipelines.plans.domains import METHODS, DomainsPlan as Plan


PLAN = planned(Plan)
RUNS, RESULTS = PLAN.folder, PLAN.results
DOMAINS = {domain.name: domain for domain in (PLAN.home, PLAN.away)}
ROWS = {row.name: row for row in PLAN.runs}


onstart:
    PLAN.note_settings()


wildcard_constraints:
    row="|".join(ROWS),
    domain="|".join(DOMAINS),
    density="|".join(PLAN.yaml.densities),
    methods="|".join(METHODS),


# Made anew whenever a run was asked for, or where the records say something else.
rule table:
    input:
        PLAN.wanted(),
    output:
        PLAN.table_files(),
    localrule: True
    run:
        PLAN.write_tables()


rule text_home:
    output:
        str(PLAN.home.prepared),
    params:
        name=f"text of {PLAN.home.name}",
        log=f"{RUNS}/logs/text-{PLAN.home.name}.log",
        command=f"python pipelines/domain_text.py {PLAN.home.name} {PLAN.home.name}",
    shell:
        RUN


# In the subwords of the home domain.
rule text_away:
    input:
        needed(PLAN.home.prepared),
    output:
        str(PLAN.away.prepared),
    params:
        name=f"text of {PLAN.away.name}",
        log=f"{RUNS}/logs/text-{PLAN.away.name}.log",
        command=f"python pipelines/domain_text.py {PLAN.away.name} {PLAN.home.name}",
    shell:
        RUN


rule base:
    input:
        needed(PLAN.home.prepared),
    output:
        str(PLAN.base_record),
    params:
        name="base",
        log=f"{RUNS}/logs/base.log",
        command=shlex.join(PLAN.base_training()),
        note=shlex.join(PLAN.noting()),
    shell:
        RUN + " && {params.note}" + (" && touch {output}" if PLAN.base_record.name == "done" else "")


# All three stages of a structured diff.
rule diffs:
    input:
        PLAN.start_from(),
        lambda w: PLAN.density_before(w.density),
    output:
        f"{RUNS}/structured/{{density}}/{PACK}",
    params:
        name=lambda w: f"structured {w.density}",
        log=f"{RUNS}/logs/structured-{{density}}.log",
        command=lambda w: shlex.join(PLAN.diffs(w.density)),
    shell:
        RUN


# All three stages of DSEE.
rule dsee:
    input:
        PLAN.start_from(),
    output:
        str(PLAN.update("3rd")),
    params:
        name="dsee",
        log=f"{RUNS}/logs/dsee.log",
        command=shlex.join(PLAN.dsee()),
    shell:
        RUN


# Methods of Delta-Tuning, together.
rule delta:
    input:
        PLAN.start_from(),
    output:
        f"{RUNS}/delta-{{methods}}/{DELTA}",
    params:
        name=lambda w: f"delta {w.methods}",
        log=f"{RUNS}/logs/delta-{{methods}}.log",
        command=lambda w: shlex.join(PLAN.delta(w.methods)),
    shell:
        RUN


rule train:
    input:
        PLAN.start_from(),
    output:
        f"{RUNS}/full/done",
    params:
        name="full",
        log=f"{RUNS}/logs/full.log",
        command=shlex.join(PLAN.full()),
    shell:
        RUN + " && touch {output}"


rule prune:
    input:
        needed(RUNS / "full/done"),
    output:
        f"{RUNS}/non-adaptive/mask.diff.safetensors",
    params:
        name="non-adaptive mask",
        log=f"{RUNS}/logs/non-adaptive-mask.log",
        command=shlex.join(PLAN.non_adaptive_mask()),
    shell:
        RUN


rule tune:
    input:
        needed(RUNS / "non-adaptive/mask.diff.safetensors"),
    output:
        f"{RUNS}/non-adaptive/3rd/done",
    params:
        name="non-adaptive",
        log=f"{RUNS}/logs/non-adaptive.log",
        command=shlex.join(PLAN.non_adaptive()),
    shell:
        RUN + " && touch {output}"


rule pack:
    input:
        needed(RUNS / "non-adaptive/3rd/done"),
    output:
        f"{RUNS}/non-adaptive/{PACK}",
    params:
        name="non-adaptive pack",
        log=f"{RUNS}/logs/non-adaptive-pack.log",
        command=shlex.join(PLAN.non_adaptive_pack()),
    shell:
        RUN


rule revert:
    input:
        needed(PLAN.pack(PLAN.yaml.densities[0])),
    output:
        f"{RUNS}/reverted.pt",
    params:
        name="base after revert",
        log=f"{RUNS}/logs/revert.log",
        command=shlex.join(PLAN.revert()),
    shell:
        RUN


rule score:
    input:
        PLAN.start_from(),
        lambda w: [] if w.row == "base" else needed(ROWS[w.row].awaited),
    output:
        f"{RESULTS}/{{row}}/{{domain}}/results.json",
    params:
        name=lambda w: f"score {w.row} {w.domain}",
        log=f"{RUNS}/logs/score-{{row}}-{{domain}}.log",
        command=lambda w: shlex.join(PLAN.score(ROWS[w.row], DOMAINS[w.domain])),
    shell:
        RUN
