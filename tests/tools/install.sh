# shellcheck shell=sh
# Read by scripts that install things (`. tests/tools/install.sh`), at the root of the repository: `need` notes what is missing,
# `install_missing` installs that from the distribution's packages, `python_venv` makes a Python of our own below target/,
# `go_tool` and `go_module` bring a program and a file of Go modules to target/tools. Each does nothing, quickly, when all of it is
# there. Nothing that is installed is started, and nothing is installed that was not asked for.

missing=""

need() { # <command that succeeds where it is there> <packages of Debian or Ubuntu>...
    there=$1
    shift
    sh -c "$there" > /dev/null 2>&1 || missing="$missing $*"
}

install_missing() {
    if [ -z "$missing" ]; then
        return 0
    fi
    if ! command -v apt-get > /dev/null; then
        echo "These are missing, and there is no apt-get to install them with:$missing" >&2
        exit 1
    fi
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    # Services such as RabbitMQ, Prometheus and nginx would be started by their installation; tests and benchmarks start their own.
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
    missing=""
}

python_venv() { # <folder> <file of requirements> <modules that can then be imported, with commas between>
    if cmp -s "$2" "$1/installed.txt" && "$1/bin/python" -c "import $3" 2> /dev/null; then
        return 0
    fi
    echo "Installing $2 in $1"
    rm -rf "$1"
    python3 -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$2"
    cp "$2" "$1/installed.txt"
}

go_tool() { # <name> <module of a command, version>
    if go version -m "target/tools/bin/$1" 2> /dev/null | grep -q "mod.*[[:space:]]${2#*@}[[:space:]]"; then
        return 0
    fi
    echo "Building $2"
    GOBIN="$PWD/target/tools/bin" go install "$2"
}

go_module() { # <module> <version> <file in it> <where to copy it>
    if [ -e "$4" ]; then
        return 0
    fi
    mkdir -p "$(dirname "$4")"
    folder=$(cd / && go mod download -json "$1@$2" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p')
    cp "$folder/$3" "$4"
    chmod u+w "$4"
}
