"""One page that shows what a run did, made from the run's files alone."""
