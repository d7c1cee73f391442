"""Result records, and what is made from them: tables, head maps, bar pictures.

Core room: it never imports fairseq, transformers or peft.
Import what you need from its modules (`records`, `scores`, `tables`, `head_pictures`, `bar_pictures`);
nothing is re-exported here, so that reading a record does not load matplotlib.
"""
