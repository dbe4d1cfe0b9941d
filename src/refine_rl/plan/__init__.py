"""What a run will take, before it takes anything: calls, tokens, dollars, minutes, memory.

    counts.py    how many prompts there will be, and how long texts are
    calls.py     settings -> calls to LLMs by purpose; pure (call.py: calls of one kind)
    rivals.py    what rivals of the tuned model take
    rollback.py  what a run repeats where a drift leads back
    teacher.py   what a teacher takes
    seeds.py     the same under several seeds
    survey.py    a task -> its prompts and counts, its mistakes
    money.py     calls -> dollars
    machine.py   the model's size, this machine's speed
    pace.py      both -> seconds
    memory.py    both -> memory and disk
    team.py      several processes, and the share of the busiest
    service.py   a model at a service -> its tokens, and dollars
    durations.py machine and LLMs -> how long a run lasts
    words.py     what exceeds the budget, is missing, dominates
    probe.py     a look at the untrained model, where the person agrees to it
    plan.py      all of it together

Everything but the number of calls is an estimate. Nothing here needs a key or the network.
"""

from refine_rl.plan.calls import Calls, calls
from refine_rl.plan.counts import Counts, count_prompts
from refine_rl.plan.plan import Plan, make_plan, plan_of
from refine_rl.plan.survey import Survey, survey

__all__ = ["Calls", "Counts", "Plan", "Survey", "calls", "count_prompts", "make_plan", "plan_of", "survey"]
