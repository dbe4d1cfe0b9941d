"""`refine doctor`: everything that a run depends on, looked at before it.

found.py       what was found, a line each; what fails does not stop what comes behind it
subject.py     the task that is examined, and the command that looks again
machine.py     versions, threads, the card, number formats
task.py        prompts and reward; memory, disk, time and budget by the plan
endpoints.py   keys and prices; the LLMs asked once
model.py       weights, template, stop tokens, the adapter's reach, the sampler beside the trainer
answers.py     first answers and their rewards
examine.py     all of it, the cheap before the dear
"""
