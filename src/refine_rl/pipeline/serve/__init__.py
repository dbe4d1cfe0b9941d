"""A run's model behind the protocol of OpenAI's chat completions: `asked.py` what a request wants, `own.py`
the policy that answers, `replies.py` its answers in the protocol's form, `front.py` the HTTP, `vllm.py` a
server that answers in the policy's place, `opened.py` all of it for a run."""
