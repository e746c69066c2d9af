"""The proof of a host: every model is asked for a token, or for a vector where it only embeds."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from loading import ROOT
from playing import run_plays
from serving import Answering, serving

STEPS = ROOT / "roles" / "fleet"
# What each model answers on each path, as an Ollama does.
ANSWERS: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {
    ("/api/generate", "talks"): (200, {"response": "4", "eval_count": 1}),
    ("/api/generate", "mute"): (200, {"response": "", "eval_count": 0}),
    ("/api/generate", "embeds"): (400, {"error": '"embeds" does not support generate'}),
    ("/api/embed", "embeds"): (200, {"embeddings": [[0.1, 0.2]]}),
    ("/api/generate", "broken"): (400, {"error": '"broken" does not support generate'}),
    ("/api/embed", "broken"): (500, {"error": "out of memory"}),
    ("/api/generate", "gone"): (404, {"error": "model 'gone' not found"}),
}


class Ollama(Answering, BaseHTTPRequestHandler):
    """An Ollama with models of several kinds."""

    def do_POST(self) -> None:
        """Answer one question."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, said = ANSWERS[self.path, asked["model"]]
        self.answer(status, json.dumps(said).encode(), {"Content-Type": "application/json"})


def silent(folder: Path, *models: str) -> list[str]:
    """Return what the proof says of models that gave nothing."""
    with serving(Ollama) as address:
        port = int(address.rpartition(":")[2])
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [str(STEPS / "vars" / "main.yml")],
            "vars": {
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                "fleet_asked": [{"name": name, "engine": "ollama", "port": port} for name in models],
                "fleet_token_seconds": 60,
            },
            "tasks": [
                {"ansible.builtin.include_tasks": str(STEPS / "tasks" / "steps" / "ask.yml")},
                {
                    "ansible.builtin.copy": {
                        "content": "{{ fleet_silent | to_json }}",
                        "dest": str(folder / "silent"),
                        "mode": "0600",
                    }
                },
            ],
        }
        ran = run_plays(folder, [play])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said: list[str] = json.loads((folder / "silent").read_text())
    return [words.replace(str(port), "PORT") for words in said]


def test_a_model_that_only_embeds_proves_itself_with_a_vector(tmp_path: Path) -> None:
    assert silent(tmp_path, "talks", "embeds") == []


def test_a_host_without_such_models_is_asked_for_tokens_alone(tmp_path: Path) -> None:
    assert silent(tmp_path, "talks") == []


def test_what_gives_neither_is_named_with_what_was_said(tmp_path: Path) -> None:
    mute, gone, broken = silent(tmp_path, "mute", "broken", "talks", "gone")
    assert mute.startswith("mute of ollama at port PORT gave no token: ")
    assert "not found" in gone
    assert broken.startswith("broken of ollama at port PORT gave no vector: ")
    assert "out of memory" in broken
