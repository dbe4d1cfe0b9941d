"""What the answers of base, tuned and further models are worth beside references: metrics of whole corpora,
and the controls that a model should beat before its numbers mean anything."""
