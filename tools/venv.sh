# Sourced by the scripts beside it: `ensure_venv EXTRAS` makes .venv if there is none and installs the project.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

ensure_venv() {
  local wanted="$root/pyproject.toml" stamp="$venv/.installed-${1:-core}"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  if [ ! -e "$stamp" ] || [ "$wanted" -nt "$stamp" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root${1:+[$1]}" 2>"$venv/pip.log" \
      || { cat "$venv/pip.log" >&2; echo "tools: installing the project failed" >&2; exit 1; }
    touch "$stamp"
  fi
}
