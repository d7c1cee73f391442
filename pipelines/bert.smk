# What the pipelines on GLUE and SQuAD share; needs PLAN, RUNS and RESULTS.
import re


wildcard_constraints:
    task="|".join(PLAN.bert.tasks),
    run="[^/]+",
    model_file=r"config\.json|checkpoint-last-info\.pt|task\.dsee\.safetensors",
    set=r"(K\d+/|tuned/|3rd/)?(dev|test)(_matched|_mismatched)?",


# checkpoints have three times the model's size, and are needed no more after a run
TIDY = f" && rm -rf {shlex.quote(str(RUNS))}/{{wildcards.task}}/{{wildcards.run}}/{{{{,*/}}}}checkpoint-*/"


def names_of(methods):
    """The methods' names as a pattern."""
    return f"({'|'.join(map(re.escape, methods))})"


def name(wildcards):
    return f"{wildcards.task}/{wildcards.run}"


def asked(wildcards):
    return PLAN.known[name(wildcards)]


# What others start from, where a clone has its records and no model: theirs stay, and the new ones are beside the model.
rule train_again:
    output:
        f"{RUNS}/{{task}}/{{run}}/{{model_file}}",
    params:
        name=name,
        log=f"{RUNS}/{{task}}/{{run}}.log",
        command=lambda w: shlex.join(PLAN.command(asked(w), RUNS / "records")),
    shell:
        RUN + TIDY
