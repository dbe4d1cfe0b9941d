"""A reward function of one's own, on the bundled model, offline: `python examples/python_reward.py`.

The base model asks in few of its greetings; after half a minute of training it does in nearly all. Without
the limit of ten words it would learn to go on and on before it asks.
"""

import refine_rl as refine

NAMES = "Anna Ben Clara David Elena Felix Grace Hugo Iris Jonas Kate Liam Maria Noah Olga Peter Rosa Sam"
WAYS = ["Greet", "Say hello to", "Write a greeting for", "Welcome", "Say hi to", "Write a short greeting for"]


def asks(prompt, completion):
    asked = "?" in completion and len(completion.split()) <= 10
    return 0.5 * asked + 0.5 * (asked and prompt.split()[-1] in completion)


prompts = [f"{way} {name}" for way in WAYS for name in NAMES.split()]
sections = {"rollout": {"max_tokens": 32}, "grpo": {"steps": 40, "learning_rate": 1e-3}}
print(refine.train("Greet and ask.", model="tiny", prompts=prompts, rewards=[asks], **sections).comparison)
