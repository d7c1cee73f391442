"""Which runs a pipeline is made of, their command lines, what is left of them, the tables of their records.

Plain Python that Snakemake's rules (`../*.smk`) ask; it needs neither torch nor a host, so that Snakemake can
have an environment of its own.
"""
