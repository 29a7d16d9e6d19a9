#!/bin/sh
# Installs what `make bench-peers` measures the bridge against, besides what the tests need: nginx with nchan, and a Python
# with FastAPI, uvicorn and aio-pika. Does nothing, quickly, when all of it is there. Nothing that it installs is started.
set -eu
cd "$(dirname "$0")/../.."
tests/tools/setup.sh
. tests/tools/install.sh

need 'test -e /usr/lib/nginx/modules/ngx_nchan_module.so' libnginx-mod-nchan
install_missing

python_venv target/peers-venv benches/peers/requirements.txt 'fastapi, uvicorn, aio_pika'
