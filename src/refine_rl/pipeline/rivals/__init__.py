"""The rivals of the tuned model: other ways to the same end, under the same budget.

contest.py    all of them: made, asked, and one that fails told, and the rest stands
rival.py      what a rival is
tries.py      what was tried, each thing once over all processes, with what it took
trial.py      a system prompt tried on training prompts
prompt.py     the base model with a better system prompt; gepa_search.py and plain.py search for one
best_of_n.py  the best of several answers of the base model
sft.py        the base model fine-tuned on its own best answers
"""
