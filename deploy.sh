#!/usr/bin/env bash
# Deploy an environment, and everything that is done with it afterwards. See usage() below or ./deploy.sh --help.
# Every action is an Ansible playbook; this script sets up the tools, and turns the playbook's verdict into an exit code.
# It runs with the bash 3.2 of macOS: no associative arrays, and an empty array is not expanded as it is.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DONE=0 FAILED=1 USAGE=2 NOT_TAKEN_BACK=4 PENDING=7 UNHEALTHY=8
outcomes=([0]="done" [1]="failed, nothing changed" [3]="failed, taken back" [4]="failed, not taken back"
  [5]="locked" [6]="a decision is needed" [7]="changes pending" [8]="unhealthy")
all_actions=" deploy update rollback releases status verify plan backup restore scale fleet rotate monitoring logs unlock destroy "
acting=" deploy update rollback restore scale fleet rotate " # the counts of tasks end their output
reporting=" plan releases status verify backup " # --json prints what they found
# Variables whose values are nobody's business.
secret='(^|[[:space:]])([A-Za-z0-9_]*_(token|password|pass|key)|athena_database_(owner_)?url)='
login='(^|[[:space:]])([A-Za-z0-9_]+)=[^[:space:]]*(https?://[^/[:space:]]+@|://[^/[:space:]]*:[^/[:space:]]*@)' # an address with a password

usage() {
  cat <<EOF
usage: ./deploy.sh ENVIRONMENT ACTION [ARGUMENTS]

environments   $(environments)
actions
  deploy                  bring everything up, and prove it with a real question
  update                  the same for changed code or settings; says so when there is nothing to do
  update COMPONENT VERSION   run one service of an older or newer image: a release (r3), a tag, sha256:…, or \`default\`, that of the
                          release in force; all else stays as that release has it, whatever is checked out
  plan                    show what a deployment would change, without changing it; exit code 7 if there is anything
  rollback [RELEASE]      go back to the release before, or to this one, database schema included
  releases                what was deployed when, and how it ended
  status                  every part, its health, the release, and what differs from it
  verify                  ask real questions again: every engine by itself, and as callers do
  scale COMPONENT N       have so many pods of it; \`default\`: as the inventory says
  fleet [HOST]            bring the hosts with engines, or one of them, to the declared models: one after the other, each drained
                          before and proven after; a host that fails goes back, and those after it are left alone
  backup                  back the database up, and prove it by restoring it once
  restore BACKUP          put a backup in the place of the database, after proving it; what was there is kept beside it
  rotate [SECRET]         make a new secret, or all of them, and deploy, which has everything use it
  monitoring              set up the monitoring host, and what tells it of all others
  logs [COMPONENT] [-f]   the end of the logs; -f follows them, or on a cluster names the command that does
  unlock                  remove the lock that a killed run left behind
  destroy [--yes] [--data]   stop everything; asks for the environment's name first. What holds data stays, unless --data
                          says that it goes as well
arguments for all
  -v                      all of Ansible's output (more v, more of it); not where --json prints what was found
  -e NAME=VALUE, -e @FILE set a variable of the inventory for this run
  --go-on                 for deploy, update and rotate: go on from where a run stopped; without it they refuse, and name the way back
  --allow-irreversible    for deploy and update: apply migrations that cannot be taken back, after a backup
  --with-monitoring       for deploy, update and plan on one machine: have Prometheus beside the services
  --check, --diff         show what would change, change nothing
  --json                  for all but logs: JSON on standard output, all else goes to standard error. plan, releases, status, verify
                          and backup print what they found; all others, and these where they refuse or fail, one object with
                          exit_code, outcome, release, recorded, steps, seconds, problems
exit codes
  0 done   1 failed, nothing changed   2 usage   3 failed and taken back   4 failed, not taken back
  5 locked   6 a decision is needed   7 changes pending   8 unhealthy
What each action does on one machine and on a cluster, and how it ends: docs/operations.md.
ATHENA_PYTHON names the Python to use (3.11 or newer); by default the newest that is found.
EOF
}

environments() { (cd "$root/inventory" && echo *); }

fail() { # EXIT_CODE MESSAGE …
  local code=$1
  shift
  printf 'deploy.sh: %s\n' "$@" >&2
  exit "$code"
}

wrong_usage() { fail $USAGE "$@" "./deploy.sh --help shows how it is used."; }

new_enough() { command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${ATHENA_PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail $FAILED "Python 3.11 or newer is needed; found: $(${ATHENA_PYTHON:-python3} --version 2>&1 || echo none)." \
    "Install one (Debian 12 and newer: apt install python3; macOS: brew install python@3.13), or name one in ATHENA_PYTHON."
}

prepare_tools() {
  local python
  python=$(find_python)
  if [[ ! -f $root/.venv/complete ]]; then echo "Installing the tools (once for each clone) …" >&2; fi
  PYTHON=$python "$root/bootstrap/venv" "$root/.venv" "$root/locks/tools.txt" || exit $FAILED
  # shellcheck source=bootstrap/uv-settings.sh
  source "$root/bootstrap/uv-settings.sh"
  use_pip_settings "$python"
}

for argument; do
  if [[ $argument == -h || $argument == --help ]]; then
    usage
    exit $DONE
  fi
done
if (($# < 2)); then wrong_usage "an environment and an action are needed."; fi
environment=$1 action=$2
shift 2
if [[ ! $environment =~ ^[a-z][a-z0-9_-]*$ || ! -d $root/inventory/$environment ]]; then
  wrong_usage "there is no environment '$environment' (no folder inventory/$environment); there is: $(environments)."
fi
if [[ $all_actions != *" $action "* ]]; then wrong_usage "there is no action '$action'."; fi
case $action in
  deploy | update | plan) playbook=$root/site.yml ;;
  rollback) playbook=$root/rollback.yml ;;
  *) playbook=$root/playbooks/$action.yml ;;
esac
if [[ ! -f $playbook ]]; then wrong_usage "the environment '$environment' does not offer '$action'."; fi

ansible_arguments=() operands=() follow=no confirmed=no json=no verbose=no irreversible=no go_on=no data=no
case $action in
  fleet | logs | restore | rollback | rotate) most_operands=1 ;;
  scale | update) most_operands=2 ;;
  *) most_operands=0 ;;
esac
while (($#)); do
  case $1 in
    -v | -vv | -vvv | -vvvv) ansible_arguments+=("$1") verbose=yes ;;
    --check | --diff) ansible_arguments+=("$1") ;;
    -e)
      if (($# < 2)) || [[ $2 != @?* && ! $2 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then wrong_usage "-e needs NAME=VALUE or @FILE."; fi
      if [[ $2 =~ $secret || $2 =~ $login ]]; then
        wrong_usage "${BASH_REMATCH[2]} in an argument is seen by all: -e @FILE instead, or for the database ATHENA_DATABASE_URL," \
          "for the package index PIP_INDEX_URL."
      fi
      if [[ $2 == @[!/]* ]]; then ansible_arguments+=(-e "@$PWD/${2#@}"); else ansible_arguments+=(-e "$2"); fi
      shift
      ;;
    -f) if [[ $action == logs ]]; then follow=yes; else wrong_usage "$action takes no -f."; fi ;;
    --yes) if [[ $action == destroy ]]; then confirmed=yes; else wrong_usage "$action takes no --yes."; fi ;;
    --data) if [[ $action == destroy ]]; then data=yes; else wrong_usage "$action takes no --data."; fi ;;
    --allow-irreversible)
      if [[ " deploy update " != *" $action "* ]]; then wrong_usage "$action takes no --allow-irreversible."; fi
      irreversible=yes
      ;;
    --go-on)
      if [[ " deploy update rotate " != *" $action "* ]]; then wrong_usage "$action takes no --go-on."; fi
      go_on=yes
      ;;
    --with-monitoring)
      if [[ " deploy update plan " != *" $action "* ]]; then wrong_usage "$action takes no --with-monitoring."; fi
      ansible_arguments+=(-e athena_with_monitoring=true)
      ;;
    --json) if [[ $action == logs ]]; then wrong_usage "logs takes no --json."; else json=yes; fi ;;
    -*) wrong_usage "unknown argument '$1'." ;;
    *)
      if ((${#operands[@]} >= most_operands)); then wrong_usage "$action does not take '$1'."; fi
      if [[ ! $1 =~ ^[A-Za-z0-9][A-Za-z0-9._:-]*$ ]]; then wrong_usage "'$1' is not the name of a release, component, version, backup or host."; fi
      operands+=("$1")
      ;;
  esac
  shift
done

if [[ $json == yes && $verbose == yes && $reporting == *" $action "* ]]; then
  wrong_usage "$action --json prints what it found, and nothing of Ansible's output: leave out -v, or --json to read that."
fi
case $action:${#operands[@]} in
  update:1 | scale:[01]) wrong_usage "$action needs $([[ $action == update ]] && echo "COMPONENT and VERSION, or neither" || echo "COMPONENT and a number")." ;;
  update:2)
    if [[ $go_on == yes ]]; then wrong_usage "update COMPONENT VERSION takes no --go-on; \`deploy --go-on\` mends what stopped."; fi
    playbook=$root/playbooks/update_component.yml
    ;;
  destroy:*) if [[ $data == yes ]]; then operands=(--data); fi ;; # so that lock and ledger say which of the two it is
  restore:0) wrong_usage "restore needs the name of a backup; \`backup\` and \`status --json\` show them." ;;
esac

exchange=$(mktemp -d)
tells=no report=""
end() { # The last word of a run, however it ends; what there is to tell of one that was broken off is only how.
  local code=$? account='"release": null, "recorded": null, "steps": [], "seconds": 0, "problems": []}'
  if [[ $tells == yes && " $DONE $PENDING $UNHEALTHY " == *" $code "* && -s $report ]]; then
    cat "$report" >&3
  elif [[ $tells == yes ]]; then
    if [[ -s $exchange/outcome ]]; then account=$(sed 's/^{//' "$exchange/outcome"); fi
    printf '{"exit_code": %d, "outcome": "%s", %s\n' "$code" "${outcomes[$code]:-broken off}" "$account" >&3
  fi
  rm -rf "$exchange"
}
trap end EXIT
if [[ $json == yes ]]; then
  tells=yes
  exec 3>&1 >&2
  export ANSIBLE_OUTCOME_FILE=$exchange/outcome
  if [[ $reporting != *" $action "* ]]; then
    json=no # the playbooks speak to people, as ever
  elif [[ $action == plan ]]; then
    report=$exchange/changes
  else
    report=$exchange/said
  fi
fi

if [[ $action == destroy && $confirmed == no ]]; then
  if [[ $data == yes ]]; then consequence="removes the environment '$environment' with its data"; else consequence="stops all of the environment '$environment'"; fi
  printf 'This %s. Type its name to go on: ' "$consequence" >&2
  read -r answer || answer=""
  if [[ $answer != "$environment" ]]; then fail $FAILED "not confirmed; nothing was changed."; fi
fi

prepare_tools

if [[ $verbose == yes ]]; then export ANSIBLE_STDOUT_CALLBACK=ansible.builtin.default; fi
if [[ $acting != *" $action "* ]]; then export ANSIBLE_STEPS_COUNTS=false; fi
if [[ $json == yes ]]; then
  export ANSIBLE_STEPS_CHANGES=false
  exec >"$exchange/said"
fi
if [[ $action == plan ]]; then
  ansible_arguments+=(--check --diff)
  export ANSIBLE_CHANGES_FILE=$exchange/changes
fi
export ANSIBLE_CONFIG=$root/ansible.cfg
export ANSIBLE_LOCAL_TEMP=$exchange/temporary # goes with it, however the run ends
export OBJC_DISABLE_INITIALIZE_FORK_SAFETY=YES # macOS may end a worker of Ansible otherwise, as its documentation says
cd "$root"
broken_off=0
break_off() { # EXIT_CODE; what ends this script ends the playbook first, which works in the folder that is removed then.
  broken_off=$1
  # Whatever the signal was: this one Ansible hands on to what it has started. It may have ended by itself.
  kill -TERM "$playbook_pid" 2>/dev/null || return 0
}
result=0
.venv/bin/ansible-playbook -i "inventory/$environment" "$playbook" ${ansible_arguments[@]+"${ansible_arguments[@]}"} \
  -e "release_action=$action" -e "release_operand=${operands[0]:-}" -e "release_second=${operands[1]:-}" \
  -e "release_json=$json" -e "release_follows=$follow" \
  -e "release_allow_irreversible=$irreversible" -e "release_go_on=$go_on" -e "release_destroys_data=$data" \
  -e "release_owner_pid=$$" -e "release_exchange=$exchange" <&0 &
playbook_pid=$!
trap 'break_off 129' HUP
trap 'break_off 130' INT
trap 'break_off 143' TERM
wait "$playbook_pid" || result=$?
while kill -0 "$playbook_pid" 2>/dev/null; do wait "$playbook_pid" || result=$?; done # a signal ends `wait`, and not the playbook
trap - HUP INT TERM
if ((broken_off)); then exit "$broken_off"; fi

# The playbook says what its end means; without a word from it, a failure came before anything was changed.
if [[ -s $exchange/verdict ]]; then
  verdict=$(<"$exchange/verdict")
  if [[ $verdict == "$NOT_TAKEN_BACK" ]]; then
    case $action in destroy | fleet | rollback) again="$action${operands[0]:+ ${operands[0]}}" ;; *) again="deploy --go-on" ;; esac
    echo "deploy.sh: not taken back; see \`status\` and \`logs\`; then \`$again\` goes on." >&2
  fi
  exit "$verdict"
elif ((result)); then
  exit $FAILED
fi

if [[ $action == plan ]]; then
  if [[ $(<"$exchange/changes") == "[]" ]]; then exit $DONE; fi
  exit $PENDING
fi

if [[ -s $exchange/logs ]]; then
  tail_arguments=(-n 40)
  if [[ $follow == yes ]]; then tail_arguments+=(-F); fi
  while IFS= read -r file; do tail_arguments+=("$file"); done <"$exchange/logs"
  tail "${tail_arguments[@]}"
fi
