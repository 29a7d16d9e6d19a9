#!/bin/sh
# Installs what the tests need besides Rust: RabbitMQ, promtool, nginx, curl, npm and Chromium, and a Python with pika and aio-pika for producers
# and PyJWT for an issuer that share no code with the bridge. Does nothing, quickly, when all of it is there. Nothing that it installs is started.
set -eu
cd "$(dirname "$0")/../.."
. tests/tools/install.sh

need 'test -x /usr/lib/rabbitmq/bin/rabbitmq-server' rabbitmq-server
need 'command -v promtool' prometheus
need 'test -x /usr/sbin/nginx' nginx
need 'command -v curl' curl
need 'command -v chromium' chromium
need 'command -v npm' npm
need 'command -v make' make
need 'command -v cc' gcc
need 'python3 -c "import ensurepip, venv"' python3-venv
install_missing

python_venv target/foreign-venv tests/broker/foreign/requirements.txt 'pika, aio_pika, cryptography, jwt'
