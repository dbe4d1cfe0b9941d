"""GGUF, the form of llama.cpp and Ollama: their own converter makes it, and the file is read again.

find.py         where llama.cpp is on this machine
convert.py      its converter, and what it complains about in plain words
pre.py, launch.py   the name of a tokenizer's first step, where the converter does not know the tokenizer
file.py         what a file holds
check.py        that beside the merged model
server.py       what llama.cpp says with it
"""
