"""A model at a service that speaks Tinker's interface: it samples, computes gradients and moves an adapter;
prompts, rewards, losses and the record stay here."""
