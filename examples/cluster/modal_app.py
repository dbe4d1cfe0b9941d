"""A run on Modal's GPUs, from the repository's folder:

    modal run --detach examples/cluster/modal_app.py --task my-task/task.toml --name mine
    modal volume get refine-runs mine runs/

Begun again under the same name, it goes on where it stopped. A judge's key comes from a secret of Modal's.
"""

import subprocess
from pathlib import Path

import modal

GPUS = 2
app = modal.App("refine")
runs = modal.Volume.from_name("refine-runs", create_if_missing=True)  # what is written is kept by itself
image = (
    modal.Image.debian_slim(python_version="3.12")
    .add_local_dir(".", "/refine", copy=True, ignore=[".git", ".venv", "runs", "build"])
    .run_commands("pip install /refine")
)


@app.function(
    image=image,
    gpu=f"H100:{GPUS}",
    volumes={"/runs": runs},
    timeout=24 * 60 * 60,
    # secrets=[modal.Secret.from_name("openrouter")],
)
def train(task: str, name: str) -> int:
    run = f"/runs/{name}"
    work = [task, "--run", run, "--set", f"engine.processes={GPUS}"]
    if Path(run, "config.toml").exists():
        work = ["--resume", run]
    return subprocess.run(["refine", "train", *work], cwd="/refine").returncode


@app.local_entrypoint()
def main(task: str = "examples/short_answers/task.toml", name: str = "first") -> None:
    raise SystemExit(train.remote(task, name))
