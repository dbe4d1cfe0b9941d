"""Where a run's model is, and who computes with it: a speaker and a learner from each engine."""
