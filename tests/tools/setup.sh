#!/bin/sh
# Installs what the tests need besides Rust: RabbitMQ, promtool, nginx, curl, OpenSSL, npm and Chromium, and a Python with pika and aio-pika for producers
# and PyJWT for an issuer that share no code with the bridge. Does nothing, quickly, when all of it is there. Nothing that it installs is started.
set -eu
cd "$(dirname "$0")/../.."

missing=""
need() { # <test> <package of Debian or Ubuntu>
    sh -c "$1" > /dev/null 2>&1 || missing="$missing $2"
}
need 'test -x /usr/lib/rabbitmq/bin/rabbitmq-server' rabbitmq-server
need 'command -v promtool' prometheus
need 'test -x /usr/sbin/nginx' nginx
need 'command -v curl' curl
need 'command -v openssl' openssl
need 'command -v chromium' chromium
need 'command -v npm' npm
need 'command -v make' make
need 'command -v cc' gcc
need 'python3 -c "import ensurepip, venv"' python3-venv

if [ -n "$missing" ]; then
    if ! command -v apt-get > /dev/null; then
        echo "These are missing, and there is no apt-get to install them with:$missing" >&2
        exit 1
    fi
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    # RabbitMQ, Prometheus and nginx would be started by their installation; the tests bring their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '$as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" > /dev/null
        $as_root chmod +x "$policy"
    fi
    echo "Installing:$missing"
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # one word a package
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
fi

venv=target/foreign-venv
wanted=tests/broker/foreign/requirements.txt
if ! cmp -s "$wanted" "$venv/installed.txt" || ! "$venv/bin/python" -c 'import pika, aio_pika, cryptography, jwt' 2> /dev/null; then
    echo "Installing pika, aio-pika and PyJWT in $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$venv/installed.txt"
fi
