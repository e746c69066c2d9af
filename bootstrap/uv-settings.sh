# shellcheck shell=bash
# Sourced. `use_pip_settings PYTHON` hands what is set for pip (environment or pip.conf) to uv, which reads neither.
# A setting of uv's own wins. Nothing is printed: an index's address may hold a password.

pip_wheel=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/pip-26.3-py3-none-any.whl

use_pip_settings() {
  local settings
  settings=$("$1" "$pip_wheel/pip" config list 2>/dev/null) || return 0 # an unreadable pip.conf is pip's to report
  hand_over() {                                                          # UV_VARIABLE PIP_VARIABLE PIP_SETTING
    local value=${!2:-}
    if [[ -z $value ]]; then value=$(sed -n "s/^[a-z]*\.$3='\(.*\)'\$/\1/p" <<<"$settings" | tail -n 1); fi
    if [[ -n $value && -z ${!1:-} ]]; then export "$1=$value"; fi
  }
  hand_over UV_DEFAULT_INDEX PIP_INDEX_URL index-url
  hand_over UV_INDEX PIP_EXTRA_INDEX_URL extra-index-url
  hand_over UV_FIND_LINKS PIP_FIND_LINKS find-links
  hand_over SSL_CERT_FILE PIP_CERT cert
}
