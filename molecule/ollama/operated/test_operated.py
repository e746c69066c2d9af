"""What is left when settings, versions and models were changed."""

from testinfra.host import Host

FOLDER = "/opt/athena/ollama"


def test_nothing_of_an_installation_that_failed_is_in_force(host: Host) -> None:
    assert host.file(f"{FOLDER}/current").linked_to == f"{FOLDER}/versions/0.11.4"
    assert not host.file(f"{FOLDER}/versions/0.11.7/complete").exists


def test_the_blobs_of_removed_models_are_gone(host: Host) -> None:
    large = host.check_output(f"find {FOLDER}/models/blobs -type f -size +100k").split()
    assert len(large) == 1
    assert "partial" not in large[0]
