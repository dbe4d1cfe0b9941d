"""How the bundled model `tiny` is made: corpus, tokenizer, pretraining and the figures of its card.

python -m refine_rl.assets.make_tiny --out FOLDER
python -m refine_rl.assets.make_tiny.measure --model FOLDER
"""
