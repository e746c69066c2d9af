"""What the role fleet makes of the one declaration of models."""

from pathlib import Path
from typing import Any

import pytest
from loading import load

fleet = load("roles/fleet/filter_plugins/fleet.py")
mlx = load("roles/mlx/filter_plugins/mlx_models.py")
memory = load("roles/mac_host/module_utils/mac_memory.py")
ollama = load("roles/ollama/filter_plugins/ollama.py")

HOSTS = ["mac-1", "mac-2"]
ADDRESSES = {"mac-1": "192.0.2.31", "mac-2": "mac-2.lan"}
LLAMA = {
    "name": "llama",
    "engine": "mlx",
    "port": 8080,
    "source": {"random": True},
    "decode_concurrency": 4,
    "weights_bytes": 1000,
    "kv_bytes_per_token": 10,
    "context_tokens": 512,
    "prompt_cache_bytes": 4096,
}
PHI = {
    "name": "phi3:mini",
    "engine": "ollama",
    "hosts": ["mac-2"],
    "digest": "4f2222927938",
    "preload": True,
    "context_tokens": 2048,
    "parallel": 2,
    "backend": {"timeout_seconds": 90, "priority": 1},
}


def problems(*models: Any, hosts: list[str] = HOSTS) -> list[str]:
    found: list[str] = fleet.problems(list(models), hosts)
    return found


def of(host: str, *models: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = fleet.of_host(list(models), host, ADDRESSES, "/opt/athena/mlx")
    return made


def test_what_can_be_is_taken() -> None:
    assert problems() == []
    assert problems(LLAMA, PHI) == []
    assert problems({**LLAMA, "draft": "small"}, {**LLAMA, "name": "small", "port": 8081}) == []
    # On two hosts, two models may have one port.
    assert problems({**LLAMA, "hosts": ["mac-1"]}, {**LLAMA, "name": "b", "hosts": ["mac-2"]}) == []


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([{**LLAMA, "name": ""}], "athena_models[0] (without a name): it has no name"),
        ([{**LLAMA, "engine": "vllm"}], "(llama): engine must be mlx or ollama; it is vllm"),
        ([{**LLAMA, "quantize": {}}], "there is no key 'quantize' for mlx, but name,"),
        (
            [{**LLAMA, "parallel": 4}],
            "there is no key 'parallel' for mlx; the count of requests at once is decode_conc",
        ),
        ([{**PHI, "port": 8080}], "there is no key 'port' for ollama"),
        (
            [{**PHI, "kv_bits": 8}],
            "there is no key 'kv_bits' for ollama; that is OLLAMA_KV_CACHE_TYPE of ollama_settings",
        ),
        ([{**LLAMA, "hosts": ["mac-3"]}], "hosts: there is no mac-3 in the group engines, but mac-1, mac-2"),
        ([{**LLAMA, "hosts": []}], "hosts must be a list of names"),
        ([{**LLAMA, "hosts": "mac-1"}], "hosts must be a list of names"),
        ([{**LLAMA, "hosts": ["mac-1", "mac-1"]}], "hosts names mac-1 2 times"),
        ([{**LLAMA, "backend": {"endpoint_url": "http://a"}}], "backend: endpoint_url follows from hosts and port"),
        ([{**LLAMA, "backend": {"timeout": 3}}], "backend: timeout is none of model_name, "),
        ([{**LLAMA, "backend": {"backend_type": "ollama"}}], "backend_type must be mlx or auto; it is ollama"),
        ([{**PHI, "backend": {"model_name": "phi"}}], "Ollama knows a model by its name"),
        ([{**LLAMA, "backend": []}], "backend must be a mapping"),
        ([LLAMA, {**LLAMA, "name": "b"}], "on mac-1 the port 8080 is that of llama, b; give each its own"),
        ([{**LLAMA, "port": 11434}], "the port 11434 is that of llama and of Ollama"),
        ([PHI, PHI], "phi3:mini is on mac-2 2 times for ollama; leave one out"),
        ([{**LLAMA, "draft": "small"}], "the draft of llama, small, is not on mac-1; add that to its hosts"),
        (["llama"], "athena_models must be a list of mappings"),
    ],
)
def test_what_cannot_be_is_named_with_the_remedy(models: list[Any], words: str) -> None:
    assert words in "; ".join(problems(*models))


def test_all_faults_are_told_at_once() -> None:
    told = problems({**LLAMA, "hosts": ["mac-9"], "x": 1}, {**PHI, "engine": None})
    assert len(told) == 3
    assert [fault.partition(":")[0].split()[0] for fault in told] == [*["athena_models[0]"] * 2, "athena_models[1]"]


def test_a_model_needs_a_host() -> None:
    assert "the group engines of the inventory has no hosts" in problems(LLAMA, hosts=[])[0]


def test_backends_are_those_of_every_host_by_its_address() -> None:
    assert fleet.backends([LLAMA, PHI], ADDRESSES) == [
        {
            "model_name": "llama",
            "backend_type": "mlx",
            "endpoint_url": "http://192.0.2.31:8080",
            "max_concurrency": 4,
            "capabilities": {"context_tokens": 512},
        },
        {
            "model_name": "llama",
            "backend_type": "mlx",
            "endpoint_url": "http://mac-2.lan:8080",
            "max_concurrency": 4,
            "capabilities": {"context_tokens": 512},
        },
        {
            "model_name": "phi3:mini",
            "backend_type": "ollama",
            "endpoint_url": "http://mac-2.lan:11434",
            "max_concurrency": 2,
            "timeout_seconds": 90,
            "priority": 1,
            "capabilities": {"context_tokens": 2048},
        },
    ]
    assert fleet.backends([], {}) == []
    assert fleet.backends([{**LLAMA, "engine": "x"}], ADDRESSES) == []  # the faults are told where they are refused


def test_callers_may_know_an_mlx_by_another_name_and_with_ollama_behind_it() -> None:
    named = {**LLAMA, "hosts": ["mac-1"], "backend": {"model_name": "phi3:mini", "backend_type": "auto"}}
    [row] = fleet.backends([named], ADDRESSES)
    assert (row["model_name"], row["backend_type"]) == ("phi3:mini", "auto")


def test_a_model_that_only_drafts_has_no_backend_and_is_not_asked() -> None:
    small = {key: value for key, value in LLAMA.items() if key != "port"} | {"name": "small"}
    told = of("mac-1", {**LLAMA, "draft": "small"}, small)
    assert [row["model_name"] for row in told["backends"]] == ["llama"]
    assert [one["name"] for one in told["asked"]] == ["llama"]
    assert [one["name"] for one in told["mlx_models"]] == ["llama", "small"]
    assert len(told["mac_host_models"]) == 2


def test_pods_reach_hosts_that_are_known_by_an_address() -> None:
    assert fleet.egress([LLAMA, {**PHI, "hosts": ["mac-1"]}], ADDRESSES) == [
        {"cidr": "192.0.2.31/32", "ports": [8080, 11434]}
    ]


def test_the_firewall_of_a_mac_guards_every_port_that_is_served() -> None:
    declared = [11434, "8080:8099", "8110", "8889:x", "http"]
    assert fleet.guarded(declared, [8080, 8099, 11434, 8110, 0]) == declared
    assert fleet.guarded(declared, [9001, 8100, "9001", 8889, "x"]) == [*declared, 8100, 8889, 9001]
    assert fleet.guarded([], [9001]) == []
    assert fleet.guarded("all", [9001]) == "all"


def test_the_roles_of_a_host_are_told_what_they_take() -> None:
    told = of("mac-2", LLAMA, PHI)
    assert mlx.problems(told["mlx_models"]) == []
    assert told["mlx_models"][0] == {
        key: LLAMA[key] for key in ("name", "port", "source", "decode_concurrency", "prompt_cache_bytes")
    }
    assert told["ollama_models"] == [{"name": "phi3:mini", "digest": "4f2222927938", "preload": True}]
    assert ollama.model_problems(told["ollama_models"]) == []
    assert ollama.setting_problems(told["ollama_settings"]) == []
    assert memory.problems(told["mac_host_models"], told["ollama_settings"]) == []
    assert told["mac_host_models"][0]["decode_concurrency"] == 4
    assert told["mac_host_models"][1]["ollama_url"] == "http://127.0.0.1:11434"
    assert [engine["label"] for engine in told["agent_engines"]] == ["com.athena.mlx.llama", "com.athena.ollama"]
    assert of("mac-1", LLAMA, PHI)["ollama_models"] == []


def test_an_ollama_has_the_largest_count_and_context_for_all_its_models() -> None:
    told = of("mac-2", PHI, {**PHI, "name": "other", "parallel": 5, "context_tokens": 1024})
    assert told["ollama_settings"] == {
        "OLLAMA_HOST": "0.0.0.0:11434",
        "OLLAMA_NUM_PARALLEL": 5,
        "OLLAMA_CONTEXT_LENGTH": 2048,
    }
    counted = memory.ollama_of(told["ollama_settings"])
    assert (counted.parallel, counted.context_tokens) == (5, 2048)


def test_routers_are_told_the_context_that_an_ollama_is_started_with() -> None:
    short = {**PHI, "name": "short", "context_tokens": 1024}
    unsaid = {key: value for key, value in PHI.items() if key != "context_tokens"} | {"name": "unsaid"}
    tools = {**PHI, "name": "tools", "backend": {"capabilities": {"tools": True}}}
    own = {**PHI, "name": "own", "backend": {"capabilities": {"context_tokens": 512}}}
    told = {
        row["model_name"]: row.get("capabilities")
        for row in of("mac-2", LLAMA, PHI, short, unsaid, tools, own)["backends"]
    }
    assert told == {
        "llama": {"context_tokens": 512},
        "phi3:mini": {"context_tokens": 2048},
        "short": {"context_tokens": 2048},
        "unsaid": {"context_tokens": 2048},
        "tools": {"tools": True, "context_tokens": 2048},
        "own": {"context_tokens": 512},
    }
    assert "capabilities" not in of("mac-2", unsaid)["backends"][0]


def test_routers_are_told_the_context_that_the_admission_counts_of_each_server_of_mlx() -> None:
    unsaid = {key: value for key, value in LLAMA.items() if key != "context_tokens"} | {"name": "unsaid", "port": 8081}
    own = {**LLAMA, "name": "own", "port": 8082, "backend": {"capabilities": {"tools": True, "context_tokens": 64}}}
    auto = {**LLAMA, "name": "auto", "port": 8083, "backend": {"backend_type": "auto"}}
    told = of("mac-1", LLAMA, unsaid, own, auto)
    assert {row["model_name"]: row.get("capabilities") for row in told["backends"]} == {
        "llama": {"context_tokens": 512},
        "unsaid": None,
        "own": {"tools": True, "context_tokens": 64},
        "auto": {"context_tokens": 512},
    }
    counted = {one["name"]: one.get("context_tokens") for one in told["mac_host_models"]}
    assert counted == {"llama": 512, "unsaid": None, "own": 512, "auto": 512}


def test_a_model_that_drafts_counts_once_for_each_server_that_has_it() -> None:
    small = {"name": "small", "engine": "mlx", "source": {"random": True}, "weights_bytes": 10, "kv_bytes_per_token": 1}
    drafted = {**LLAMA, "draft": "small"}
    other = {key: value for key, value in drafted.items() if key != "prompt_cache_bytes"}
    other |= {"name": "other", "port": 8081, "context_tokens": 1024}
    counted = of("mac-1", drafted, other, small)["mac_host_models"]
    assert memory.problems(counted, {}) == []
    assert [(one["name"], one["context_tokens"], one.get("prompt_cache_bytes")) for one in counted] == [
        ("llama", 512, 4096),
        ("small for llama", 512, 0),
        ("other", 1024, None),
        ("small for other", 1024, None),
    ]
    assert {memory.at_once(one) for one in counted} == {(1, 0)}
    served = of("mac-1", drafted, {**small, "port": 8082, "context_tokens": 256})["mac_host_models"]
    assert [one["name"] for one in served] == ["llama", "small for llama", "small"]


def test_the_weights_of_a_folder_on_the_host_are_read_there() -> None:
    model = {key: value for key, value in LLAMA.items() if key != "weights_bytes"} | {
        "source": {"folder": "/srv/llama"}
    }
    assert of("mac-1", model)["mac_host_models"][0]["folder"] == "/srv/llama"


def test_the_keys_are_those_that_the_roles_know() -> None:
    assert set(fleet.MLX) | {"name"} == mlx.KEYS
    assert set(fleet.FIGURES) == set(memory.NUMBERS["ollama"])
    assert {*fleet.FIGURES, *fleet.COUNTED} == set(memory.NUMBERS["mlx"])
    assert set(fleet.COUNTED) <= set(fleet.MLX)


def test_a_record_of_an_earlier_release_is_taken_as_it_was_meant() -> None:
    memory = load("roles/mac_host/module_utils/mac_memory.py")
    figures = {"weights_bytes": 10**9, "kv_bytes_per_token": 1000, "context_tokens": 4096}
    before = [
        {"name": "llama", "engine": "mlx", "prompt_cache_bytes": 10**8, **figures, "parallel": 4, "kv_bits": 8},
        {"name": "phi3:mini", "engine": "ollama", **figures, "parallel": 2, "kv_bits": 8, "ollama_url": "http://x"},
    ]
    settings = {"OLLAMA_NUM_PARALLEL": 2, "OLLAMA_CONTEXT_LENGTH": 4096}
    record = {"mac_host": {"models": before, "reserve_mib": 8192}, "ollama": {"settings": settings}}
    assert memory.problems(before, settings)
    taken = fleet.of_record(record)
    mlx, ollama = taken["mac_host"]["models"]
    assert mlx == {"name": "llama", "engine": "mlx", "prompt_cache_bytes": 10**8, **figures, "decode_concurrency": 4}
    assert ollama == {"name": "phi3:mini", "engine": "ollama", **figures, "ollama_url": "http://x"}
    assert memory.problems([mlx, ollama], settings) == []
    assert memory.demand(ollama, memory.ollama_of(settings)).kv_words == "1000 B x 4096 x 2"
    assert taken == {**record, "mac_host": {"models": [mlx, ollama], "reserve_mib": 8192}}
    assert fleet.of_record({}) == {}


def test_a_record_that_names_no_environment_of_mlx_means_the_one_in_force() -> None:
    served: dict[str, Any] = {"mlx": {"models": [{"name": "llama"}]}}
    none: dict[str, Any] = {"mlx": {"models": []}}
    assert fleet.of_record(served, "abc")["mlx"]["environment"] == "abc"
    assert (
        fleet.of_record({"mlx": {**served["mlx"], "environment": "of-then"}}, "abc")["mlx"]["environment"] == "of-then"
    )
    assert fleet.of_record(none, "abc") == none


def test_a_host_goes_back_to_the_models_that_were_there_though_nobody_declared_them() -> None:
    record = {
        "ollama": {"models": [{"name": "phi3"}, {"name": "new"}]},
        "ollama_digests": {"phi3": "0123", "old": "4567"},
    }
    was = fleet.of_record(record)
    assert was == {"ollama": record["ollama"]}  # or every host would be due that has another than declared
    assert fleet.with_digests(was["ollama"]["models"], record["ollama_digests"]) == [
        {"name": "phi3", "former_digest": "0123"},
        {"name": "new"},
    ]


def test_servers_that_change_end_before_any_starts_anew_and_likewise_on_the_way_back() -> None:
    grows, shrinks, stays = ({**LLAMA, "name": name} for name in ("grows", "shrinks", "stays"))
    before = [{**grows, "prompt_cache_size": 2}, {**shrinks, "prompt_cache_size": 40}, stays]
    after = [{**grows, "prompt_cache_size": 30}, {**shrinks, "prompt_cache_size": 2}, dict(reversed(stays.items()))]
    assert fleet.unchanged(after, before) == [stays]
    assert fleet.unchanged(before, after) == [stays]
    assert fleet.unchanged(before, before) == before


def test_a_server_changes_with_the_model_that_drafts_for_it() -> None:
    small = {"name": "small", "source": {"random": True}}
    drafted = {**LLAMA, "draft": "small"}
    assert fleet.unchanged([drafted, small], [drafted, {**small, "quantise": {"bits": 8}}]) == []
    assert fleet.unchanged([drafted, small], [small, drafted]) == [drafted, small]


def test_of_a_host_that_nothing_is_known_of_no_server_goes_on() -> None:
    assert fleet.unchanged([LLAMA], []) == []


def test_a_record_of_this_release_stays_as_it_is() -> None:
    alone = fleet.of_host([LLAMA, PHI], "mac-2", ADDRESSES, "/opt/athena/mlx")["mac_host_models"]
    record = {"mac_host": {"models": alone}}
    assert fleet.of_record(record) == record


def test_the_agents_token_is_the_one_that_the_admin_api_knows() -> None:
    from athena.auth.tokens import agents_token  # noqa: PLC0415  # of the service

    assert fleet.agents_token("a-token-of-this-test\n") == agents_token("a-token-of-this-test")
    assert fleet.agents_token("") == fleet.agents_token(None) == ""


def test_the_fields_of_a_backend_are_those_of_the_admin_api() -> None:
    from athena.admin.schemas import BackendNew  # noqa: PLC0415  # of the service, which no other test here needs

    assert set(fleet.BACKEND) == set(BackendNew.model_fields) - {"endpoint_url", "description"}


def test_the_digest_of_roles_is_of_what_they_do(tmp_path: Path) -> None:
    code = load("roles/fleet/lookup_plugins/fleet_code.py").LookupModule()
    (tmp_path / "role" / "tasks").mkdir(parents=True)
    tasks, readme = tmp_path / "role" / "tasks" / "main.yml", tmp_path / "role" / "README.md"
    tasks.write_text("a")
    before = code.run([str(tmp_path / "role")])
    readme.write_text("words")
    assert code.run([str(tmp_path / "role")]) == before
    tasks.write_text("b")
    assert code.run([str(tmp_path / "role")]) != before


def test_hosts_with_models_of_mlx_share_them_where_there_are_several() -> None:
    assert of("mac-1", LLAMA)["mlx_shares"]
    assert not of("mac-1", PHI)["mlx_shares"]
    alone = {"mac-1": ADDRESSES["mac-1"]}
    assert not fleet.of_host([LLAMA], "mac-1", alone, "/opt/athena/mlx")["mlx_shares"]


def test_hosts_with_models_of_ollama_share_them_where_there_are_several() -> None:
    assert of("mac-2", PHI)["ollama_shares"]
    assert not of("mac-2", LLAMA)["ollama_shares"]
    alone = {"mac-2": ADDRESSES["mac-2"]}
    assert not fleet.of_host([PHI], "mac-2", alone, "/opt/athena/mlx")["ollama_shares"]


def test_a_host_copies_from_the_others_that_have_something() -> None:
    has = {"llama": {"key": "a-key", "sha256": "a-sum"}}
    shared = {"mac-1": has, "mac-2": has, "mac-3": {}}
    addresses = {name: f"{name}.example.internal" for name in shared}
    from_the_first = [{"url": "http://mac-1.example.internal:8097", "models": has}]
    assert fleet.peers(shared, "mac-2", addresses, 8097) == from_the_first
    assert len(fleet.peers(shared, "mac-3", addresses, 8097)) == 2
