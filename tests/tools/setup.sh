#!/bin/sh
# Installs what the tests need besides Rust: RabbitMQ, Prometheus, nginx, curl, OpenSSL, npm and Chromium, and a Python with pika and aio-pika for producers
# and PyJWT for an issuer that share no code with the bridge; for deploy/ kustomize, the library that Docker Compose reads its
# files with, the schemas of Kubernetes and of the Prometheus operator, and hadolint. Does nothing, quickly, when all of it is
# there. Nothing that it installs is started.
set -eu
cd "$(dirname "$0")/../.."
. tests/tools/install.sh

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
need 'command -v go' golang-go
install_missing

# Asked where the module is: from 1.21 on Go fetches the toolchain that it needs.
needed=$(sed -n 's/^go /go/p' tests/tools/compose/go.mod)
there=$(cd tests/tools/compose && go env GOVERSION)
if [ "$(printf '%s\n' "$needed" "$there" | sort -V | head -n 1)" != "$needed" ]; then
    echo "Go ${needed#go} or newer is needed, and $(command -v go) is ${there#go}" >&2
    exit 1
fi

python_venv target/foreign-venv tests/broker/foreign/requirements.txt 'pika, aio_pika, cryptography, jwt'

python_venv target/deploy-venv tests/deploy/requirements.txt 'kubernetes_validate, jsonschema, yaml'
go_tool kustomize sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
operator=v0.85.0
go_module github.com/prometheus-operator/prometheus-operator $operator \
    example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml "target/tools/servicemonitors-$operator.yaml"
compose=target/tools/bin/compose
if [ ! -e $compose ] || [ -n "$(find tests/tools/compose -newer $compose)" ]; then
    echo "Building the reader of Compose files"
    go build -C tests/tools/compose -o "$PWD/$compose" .
fi
