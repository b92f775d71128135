# Sourced by the scripts beside it: PYTHON, and install_into FOLDER ARGUMENTS..., by uv when it can be had, else by pip.
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Python 3.11 or newer is needed, $PYTHON is $("$PYTHON" --version 2>&1); set PYTHON=/path/to/python3.11" >&2
  exit 1
}

uv=.venvs/tool/bin/uv
if [ ! -x .venvs/tool/bin/python ]; then
  "$PYTHON" -m venv .venvs/tool
  .venvs/tool/bin/python -m pip install --quiet uv || echo "uv cannot be had, pip does the work" >&2
fi

pip_setting() { # the value of one of pip's settings, from its environment or its files
  .venvs/tool/bin/python -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}

say_to_uv() { # UV_VARIABLE pip-setting: hands a setting of pip to uv, unless uv has its own
  local value
  value=$(pip_setting "$2")
  if [ -n "$value" ] && [ -z "${!1:-}" ]; then export "$1=$value"; fi
}

if [ -x "$uv" ]; then
  say_to_uv UV_DEFAULT_INDEX index-url
  say_to_uv UV_EXTRA_INDEX_URL extra-index-url
  say_to_uv UV_FIND_LINKS find-links
  say_to_uv UV_CONSTRAINT constraint
  say_to_uv UV_HTTP_TIMEOUT default-timeout
  say_to_uv SSL_CERT_FILE cert
fi

install_into() {
  local folder=$1
  shift
  if [ -x "$uv" ] && "$uv" pip install --quiet --python "$folder/bin/python" "$@"; then return; fi
  "$folder/bin/python" -m pip install --quiet "$@"
}
