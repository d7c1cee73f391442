"""Result records, and what is made from them: tables, pictures, a report.

Core room: it never imports fairseq, transformers or peft.
Import what you need from its modules (`records`, `scores`, `tables`, `significance`, `curves`, `report`,
...); nothing is re-exported here, so that reading a record does not load matplotlib.
"""
