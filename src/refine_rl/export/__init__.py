"""A tuned model for other programs, and whether it is the same model there.

witness.py   what the tuned model says to a few prompts, before anything is written
check.py     a folder, read anew by transformers or peft, beside that
gguf/        llama.cpp's form: its converter, what the file holds, what a server says with it
ollama.py    a Modelfile, `ollama create`, what Ollama says with it
hub.py       onto the hub, and what is there afterwards
"""
