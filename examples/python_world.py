"""A world of one's own, on the bundled model, offline: `python examples/python_world.py`, a minute or two.

A shy guest talks only when it is asked something, by name. The base model greets three times and is nodded
at; the tuned one asks at once.
"""

import refine_rl as refine

NAMES = "Anna Ben Clara David Elena Felix Grace Hugo Iris Jonas Kate Liam Maria Noah Olga Peter Rosa Sam"
WAYS = ["Greet", "Say hello to", "Welcome"]


class ShyGuest:
    def start(self, data, seed):
        self.name, self.attempts = data["name"], 3
        return ""

    def step(self, reply):
        self.attempts -= 1
        if "?" in reply and self.name in reply and len(reply.split()) <= 10:
            return "Very well, thank you!", 1.0, True
        return "(nods)", 0.0, self.attempts == 0


prompts = [{"prompt": f"{way} {name}", "name": name} for way in WAYS for name in NAMES.split()]
sections = {
    "rollout": {"turns": 3, "max_tokens": 20},
    "reward": {"world": {"take": "best", "discount": 0.7}},
    "grpo": {"steps": 30, "prompts_per_step": 4, "learning_rate": 1e-3, "validate_every": 0},
}
run = refine.train("Make it talk.", model="tiny", prompts=prompts, environment=ShyGuest, **sections)
print(run.comparison)
