#!/bin/sh
# Installs what `make bench-peers` measures the bridge against, besides what the tests need: nginx with nchan, and a Python
# with FastAPI, uvicorn and aio-pika. Does nothing, quickly, when all of it is there. Nothing that it installs is started.
set -eu
cd "$(dirname "$0")/../.."
tests/tools/setup.sh

if [ ! -x /usr/sbin/nginx ] || [ ! -e /usr/lib/nginx/modules/ngx_nchan_module.so ]; then
    if ! command -v apt-get > /dev/null; then
        echo "nginx with nchan is missing, and there is no apt-get to install it with" >&2
        exit 1
    fi
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    # nginx would be started by its installation; the benchmark starts its own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '$as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" > /dev/null
        $as_root chmod +x "$policy"
    fi
    echo "Installing: nginx libnginx-mod-nchan"
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nginx libnginx-mod-nchan
fi

venv=target/peers-venv
wanted=benches/peers/requirements.txt
if ! cmp -s "$wanted" "$venv/installed.txt" || ! "$venv/bin/python" -c 'import fastapi, uvicorn, aio_pika' 2> /dev/null; then
    echo "Installing FastAPI, uvicorn and aio-pika in $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$venv/installed.txt"
fi
