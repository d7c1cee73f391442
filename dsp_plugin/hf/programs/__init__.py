"""The programs of scripts/glue and scripts/squad, of which each script calls one."""
