"""A Tinker service on the loopback, which speaks the protocol of the SDK `tinker` 0.38 and computes real
gradients with a small model. It can be told to fail.

    server = TinkerServer(folder_of_a_model, store=tmp_path)
    client = server.client()          # a tinker.ServiceClient(base_url=server.url, api_key=KEY)
    training = client.create_lora_training_client(base_model=server.manners.name, rank=4, seed=0).result()
    server.asked("optim_step"), server.gradients(training.model_id), server.state(training.model_id)
    server.stop()

Faults, each for the next `times` requests of a path (of GET, its first word: "files", "training_runs",
"get_server_capabilities") once `after` of them went well:

    server.fail("optim_step", status=503, times=2)      an error of HTTP in place of the request
    server.cut("forward_backward", when="after")        the connection ends: the request was carried out
    server.break_promise("optim_step", "no memory")     the request is taken, its promise ends with an error
    server.hold("asample", event.wait)                  nothing happens until this returned
    server.fail("retrieve_future", status=410)          the promise is gone
    server.vanish()                                     no answer from now on, to anybody

Habits (`manners.py`) are given at the start or set later: `TinkerServer(folder, store=..., clips=False)`,
`server.manners.sampler = "stale"`.

A second server on the same `store` knows what the first has saved, and none of its sessions, as a service
that was started anew. For a terminal: `PYTHONPATH=tests python -m tinker_server FOLDER`.
"""

from tinker_server.server import KEY, TinkerServer

__all__ = ["KEY", "TinkerServer"]
