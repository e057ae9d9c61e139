"""What the scripts of this folder share: a client in a virtual environment of its own, and the demo checkpoint served
by `guildhall up` while it runs."""
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
sys.path.insert(0, str(SOURCE / "tests/api"))
from cluster import DEMO, Cluster  # noqa: E402

MODEL = "test-model"  # what Cluster names it


def installed(*requirements):
    """The bin folder of build/clients/NAME, a virtual environment that has the requirements; NAME is the first one's."""
    folder = SOURCE / "build/clients" / requirements[0].split("[")[0].split("=")[0]
    done = folder / ".installed"
    if not done.exists() or done.read_text() != "\n".join(requirements):
        print(f"Installing {', '.join(requirements)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "-q", "--disable-pip-version-check", *requirements], check=True)
        done.write_text("\n".join(requirements))
    return folder / "bin"


def demo():
    return Cluster(DEMO, num_workers=2)


def run(*command, folder, more_env=None):
    """Runs a client, offline as far as model hubs go; its own words go to FOLDER/log."""
    print("$ " + " ".join(str(word) for word in command), flush=True)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"),
               **(more_env or {})}
    with open(folder / "log", "w") as log:
        ended = subprocess.run([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, env=offline,
                               cwd=folder)
    text = (folder / "log").read_text()
    if ended.returncode != 0:
        sys.exit(f"{text}\n{command[0]} ended with {ended.returncode}")
    return text


def expect(what, got, holds):
    """One line of the report; a check that does not hold ends the script."""
    print(f"{'ok  ' if holds else 'FAIL'} {what}: {got}", flush=True)
    if not holds:
        sys.exit(1)
