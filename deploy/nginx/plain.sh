#!/bin/sh
# Makes of sse-bridge.conf what deploy/compose.yaml runs: the same without TLS, on port 8080, before the replicas that BRIDGES names
# ("172.28.57.21:8080 172.28.57.22:8080"). The nginx image runs this before nginx.
# Takes the file to read and the file to write. What cannot be put in place stops the start.
set -eu
from=${1:-/etc/nginx/sse-bridge.conf}
to=${2:-/etc/nginx/conf.d/default.conf}
: "${BRIDGES:?names the replicas, host:port with blanks between}"

servers=""
for bridge in $BRIDGES; do
    servers="${servers}server $bridge; "
done
sed \
    -e "s/^\( *\)server 127\.0\.0\.1:8080;$/\1$servers/" \
    -e 's/^\( *\)listen 443 ssl http2;$/\1listen 8080;/' \
    -e 's/^\( *\)server_name .*;$/\1server_name _;/' \
    -e '/^ *ssl_certificate/d' \
    "$from" > "$to"
if grep -Eq '127\.0\.0\.1:8080;|443|^ *ssl_' "$to" || ! grep -q 'listen 8080;' "$to"; then
    echo "plain.sh no longer fits $from" >&2
    exit 1
fi
