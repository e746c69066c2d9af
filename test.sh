#!/usr/bin/env bash
# What CI checks, on a fresh machine. See usage() below or ./test.sh --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$root"
all_stages=(lint unit integration deploy molecule)
fast_stages=(lint unit)
# For full alone: these scenarios of molecule, and tests that are marked `long`.
long_scenarios=(container_image dev fleet grafana kubernetes_app logs mac_host mlx monitoring ollama postgresql)

usage() {
  cat <<EOF
usage: ./test.sh [fast | full | STAGE …]     without arguments: every stage

stages
  lint          ruff, mypy, yamllint, ansible-lint, shellcheck, roles' arguments, playbooks' syntax, locks
  unit          tests of the service against an embedded PostgreSQL
  integration   tests of the service against a real Ollama and a real mlx_lm.server, and slow ones
  deploy        deploy.sh on this machine, in a folder and on ports of its own: deploy, failures, update, rollback, destroy
  molecule      a trial, which is a whole environment on one machine with a real Kubernetes: deployed, changed, rolled back under
                load, its network's policies at work; beside it the roles launchd_job and release on hosts in containers
fast is lint and unit; full is every stage with what takes longest as well: every role on hosts in containers, engines and all; the
proxy in its compiled form; deploy.sh on a bare Debian 13 host; a fleet of hosts with engines that is changed under load; a
monitoring host with alerts, logs and dashboards; and of a trial what goes wrong half way, migrations that cannot go back, secrets
rotated, backups restored, a deployment killed in each of its steps, the proxy's autoscaler, parts out of reach, run by others, or
removed with the data.

Sets up .venv-test, and as root on Debian installs the packages that a stage needs. Every stage runs, also after a failed
one. The last line is "N passed, N failed": checks and tests. Exit code 0: all passed; 1: not all; 2: usage.
EOF
}

# --- what the machine must have ---------------------------------------------------------------------------------------

# need COMMAND:PACKAGE …   Install what is missing where that is possible, say what is missing where it is not.
need() {
  local pair missing=() packages=()
  for pair; do
    if ! command -v "${pair%%:*}" >/dev/null; then
      missing+=("${pair%%:*}")
      packages+=("${pair#*:}")
    fi
  done
  if ((${#missing[@]} == 0)); then return 0; fi
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing ${packages[*]} …"
    if (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}") \
      >"$work/apt.log" 2>&1; then
      return 0
    fi
    cat "$work/apt.log"
  fi
  echo "Missing: ${missing[*]}. Install them (names of Debian packages: ${packages[*]})." >&2
  return 1
}

# --- checks and their count -------------------------------------------------------------------------------------------

passed=0 failed=0 summary=() begun=() counted=()

# check NAME COMMAND …   Run one check; its output is shown only if it fails.
check() {
  local name=$1 result=0
  shift
  logged "$work/check" "$@" || result=$?
  verdict "$name" $result "$work/check"
}

# logged NAME COMMAND …   Run it with its output in NAME.log, and leave in NAME.seconds how long it took.
logged() {
  local name=$1 result=0 start=$SECONDS
  shift
  "$@" >"$name.log" 2>&1 || result=$?
  echo $((SECONDS - start)) >"$name.seconds"
  return $result
}

# child COMMAND …   Run it so that whoever ends this subshell ends it too.
child() {
  local pid
  "$@" &
  pid=$!
  trap 'kill $pid' TERM
  wait $pid
}

# begin NAME COMMAND …   Start a check that takes long, beside those that follow; settle tells how it went.
begin() {
  local name=$1
  shift
  logged "$work/check.${#begun[@]}" child "$@" &
  begun+=("$!:$name")
}

# beside NAME COMMAND …   The same, one after another: each mostly waits, and three at once would wait for each other.
beside() {
  local name=$1
  shift
  (
    flock 9
    logged "$work/check.${#begun[@]}" child "$@" 9>&-
  ) 9>"$work/turn" &
  begun+=("$!:$name")
}

# tests_beside ARGUMENT …   Likewise pytest, whose tests are counted.
tests_beside() {
  beside "pytest $*" pytest --quiet "$@"
  counted[${#begun[@]} - 1]=yes
}

# settle   Wait for the checks that were begun, and tell in their order how they went.
settle() {
  local number result
  for number in "${!begun[@]}"; do
    result=0
    wait "${begun[number]%%:*}" || result=$?
    if [[ ${counted[number]:-} ]]; then
      sed 's/^/    /' "$work/check.$number.log"
      count_tests $result "$work/check.$number.log"
    else
      verdict "${begun[number]#*:}" $result "$work/check.$number"
    fi
  done
  begun=() counted=()
}

verdict() { # NAME STATUS, and what `logged` was given
  local took
  took="$(<"$3.seconds") s"
  if (($2 == 0)); then
    passed=$((passed + 1))
    echo "  ok      $1, $took"
  else
    failed=$((failed + 1))
    echo "  FAILED  $1, $took"
    sed 's/^/    /' "$3.log"
  fi
}

# tests ARGUMENT …   Run pytest, shown as it goes, and count its tests.
tests() {
  local result=0
  pytest --quiet --color=auto "$@" 2>&1 | tee "$work/pytest.log" || result=$?
  count_tests $result "$work/pytest.log"
}

# count_tests STATUS LOG   Add up what pytest says in its last line.
count_tests() {
  local counts bad
  counts=$(tail -n 1 "$2")
  passed=$((passed + $(count passed)))
  bad=$(($(count failed) + $(count 'errors?')))
  if (($1 && bad == 0)); then bad=1; fi # it did not come as far as a count
  failed=$((failed + bad))
}

count() { # WORD   Its number in the last line of pytest.
  local number
  number=$(grep -oE "[0-9]+ $1\b" <<<"$counts") || number=0
  echo "${number%% *}"
}

# --- stages -----------------------------------------------------------------------------------------------------------

stage_lint() {
  local file environment shell_files=()
  check "programs" need shellcheck:shellcheck git:git promtool:prometheus
  begin "mypy" mypy
  begin "ansible-lint" ansible-lint --nocolor
  check "ruff" ruff check .
  check "ruff format" ruff format --check .
  check "yamllint" yamllint --strict --config-file .yamllint.yml .
  for environment in dev staging production; do
    check "playbooks' syntax, $environment" \
      ansible-playbook --syntax-check --inventory "inventory/$environment" site.yml rollback.yml monitoring.yml playbooks/*.yml
  done
  while IFS= read -r file; do
    if [[ $file == *.sh ]] || { [[ -f $file ]] && head -n 1 "$file" | grep -aqE '^#!.*(/| )(ba)?sh$'; }; then
      shell_files+=("$file")
    fi
  done < <(git ls-files --cached --others --exclude-standard)
  check "shellcheck" shellcheck --external-sources "${shell_files[@]}"
  check "locks" locks_match_their_inputs
  check "merges" no_marks_of_a_conflict
  settle
  tests tests/repository --numprocesses auto --dist worksteal
}

no_marks_of_a_conflict() { ! git grep --line-number -E '^(<{7}|>{7}|\|{7})( |$)'; }

locks_match_their_inputs() {
  molecule/shared/working-copy "$work/locks" || return 1
  mkdir -p "$work/locks/.venv/bin"
  ln -s "$root/.venv-test/bin/uv" "$work/locks/.venv/bin/uv"
  # An upgrade of a package that is not there leaves every pin that still fits as it is.
  "$work/locks/locks/compile" no-such-package || return 1
  local lock differ=0
  for lock in locks/*.txt service/requirements*.txt roles/*/files/*requirements.txt; do
    diff --unified=1 "$lock" "$work/locks/$lock" || differ=1
  done
  return $differ
}

stage_unit() {
  check "programs" need redis-server:redis-server curl:curl jq:jq
  tests service/tests -m "not engine and not slow" --numprocesses auto --dist worksteal
}

stage_integration() {
  check "programs" need redis-server:redis-server c++:g++ python3-config:python3-dev prometheus:prometheus promtool:prometheus \
    prometheus-node-exporter:prometheus-node-exporter prometheus-postgres-exporter:prometheus-postgres-exporter \
    prometheus-redis-exporter:prometheus-redis-exporter prometheus-blackbox-exporter:prometheus-blackbox-exporter
  check "engines" env PYTHONPATH=service python -m tests.engines.prepare
  tests service/tests -m "(engine or slow) and ($chosen)" --numprocesses 2 --dist loadfile # a file's tests share their engines
}

stage_deploy() {
  check "programs" need prometheus:prometheus promtool:prometheus
  local arguments=(tests/deploy -m "$chosen" --durations=0 --durations-min=5)
  if [[ " ${stages[*]} " == *" deploy molecule "* ]]; then
    echo "Beside those of the next stage: both mostly wait."
    tests_beside "${arguments[@]}"
  else
    tests "${arguments[@]}"
  fi
}

stage_molecule() {
  local scenario docker_host
  check "programs" need docker:docker.io mmdebstrap:mmdebstrap git:git c++:g++ zstd:zstd flock:util-linux dpkg-deb:dpkg
  # A machine may have the client alone.
  if ! docker version >/dev/null 2>&1; then check "Docker daemon's program" need dockerd:docker.io; fi
  if ! docker_host=$(molecule/shared/dockerd start $$); then
    check "Docker daemon" false
    settle # what the stage before has begun
    return
  fi
  export DOCKER_HOST=$docker_host
  export ATHENA_TEST_RUN=$$ # in the hosts' names, so that two runs on one machine do not meet
  for scenario in molecule/*/molecule.yml; do
    if [[ -L $scenario ]]; then continue; fi # of a whole environment: tests/trial runs them, on one that they share
    scenario=$(basename "$(dirname "$scenario")")
    if [[ $full == no && " ${long_scenarios[*]} " == *" $scenario "* ]]; then continue; fi
    beside "scenario $scenario" molecule --base-config molecule/config.yml test --scenario-name "$scenario"
  done
  if [[ $full == yes ]]; then tests_beside tests/trial/test_trial.py; fi
  tests tests/trial --ignore=tests/trial/test_trial.py -m "$chosen" --durations=0 --durations-min=10
  settle
  check "Docker daemon ended" molecule/shared/dockerd stop $$
}

# --- from here to the end ---------------------------------------------------------------------------------------------

stages=() full=no chosen="not long"
for argument; do
  case $argument in
    -h | --help)
      usage
      exit 0
      ;;
    fast) stages+=("${fast_stages[@]}") ;;
    full)
      stages+=("${all_stages[@]}") full=yes chosen="long or not long"
      ;;
    lint | unit | integration | deploy | molecule) stages+=("$argument") ;;
    *)
      echo "test.sh: there is no stage '$argument'; ./test.sh --help lists them." >&2
      exit 2
      ;;
  esac
done
if ((${#stages[@]} == 0)); then stages=("${all_stages[@]}"); fi

work=$(mktemp -d)
clean_up() {
  local pid
  for pid in $(jobs -rp); do # checks in the background, where the run was interrupted
    kill "$pid" 2>/dev/null || echo "process $pid has ended by itself"
  done
  rm -rf "$work"
  if [[ -n ${ATHENA_TEST_RUN:-} ]]; then molecule/shared/dockerd stop $$; fi # interrupted, or ended already
}
trap clean_up EXIT
trap 'exit 130' INT TERM

echo "== tools"
bootstrap/venv .venv-test locks/test.txt service
export PATH=$root/.venv-test/bin:$PATH
unset PYTHONDONTWRITEBYTECODE # or each of a thousand processes compiles every library anew
# shellcheck source=bootstrap/uv-settings.sh
source bootstrap/uv-settings.sh
use_pip_settings "$root/.venv-test/bin/python"

for stage in "${stages[@]}"; do
  echo
  echo "== $stage"
  began=$SECONDS failed_before=$failed
  "stage_$stage"
  verdict=ok
  if ((failed > failed_before)); then verdict=FAILED; fi
  summary+=("$(printf '%-12s %-6s %4d s' "$stage" "$verdict" $((SECONDS - began)))")
done

echo
echo "== summary"
printf '%s\n' "${summary[@]}" "$(printf '%-12s %-6s %4d s' total '' $SECONDS)"
echo "$passed passed, $failed failed"
if ((failed)); then exit 1; fi
