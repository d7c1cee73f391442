"""The programs of scripts/glue and scripts/squad: arguments, data, training, records. Each script only
calls one.
"""
