# shellcheck shell=bash
# Sourced. `use_pip_settings PYTHON` hands what is set for pip (environment or pip.conf) to uv, which reads neither.
# A setting of uv's own wins. Nothing is printed: an index's address may hold a password.
# The files are read here and not by `pip config`, which takes half a second.

# shellcheck disable=SC2034 # for those who source this
pip_wheel=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/pip-26.3-py3-none-any.whl

use_pip_settings() {
  local settings
  settings=$(
    "$1" - /etc/xdg/pip/pip.conf /etc/pip.conf "/Library/Application Support/pip/pip.conf" ~/.pip/pip.conf \
      "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "$HOME/Library/Application Support/pip/pip.conf" \
      ${PIP_CONFIG_FILE:+"$PIP_CONFIG_FILE"} <<'EOF'
import configparser, sys
files = configparser.RawConfigParser(strict=False)
files.read(sys.argv[1:])
for section in ("global", "install"):
    for name, value in files.items(section) if files.has_section(section) else ():
        print(f"{name}={' '.join(value.split())}")
EOF
  )
  hand_over() { # UV_VARIABLE PIP_VARIABLE PIP_SETTING
    local value=${!2:-}
    if [[ -z $value ]]; then value=$(sed -n "s/^$3=//p" <<<"$settings" | tail -n 1); fi
    if [[ -n $value && -z ${!1:-} ]]; then export "$1=$value"; fi
  }
  hand_over UV_DEFAULT_INDEX PIP_INDEX_URL index-url
  hand_over UV_INDEX PIP_EXTRA_INDEX_URL extra-index-url
  hand_over UV_FIND_LINKS PIP_FIND_LINKS find-links
  hand_over SSL_CERT_FILE PIP_CERT cert
}
