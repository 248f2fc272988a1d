#!/bin/sh
# What must be there before the host tool can be built: a linker for this machine and the Rust toolchain. Quick when it is.
set -eu
cd "$(dirname "$0")/.."

if ! command -v cc >/dev/null 2>&1; then
    if command -v apt-get >/dev/null 2>&1 && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
        as_root=
        [ "$(id -u)" = 0 ] || as_root='sudo -n'
        echo 'Installing a linker (gcc, libc6-dev)' >&2
        { $as_root apt-get -qq update && $as_root apt-get -qq install -y --no-install-recommends gcc libc6-dev; } >&2
    else
        echo 'install a C compiler, which Rust links with (Debian: apt-get install gcc libc6-dev)' >&2
        exit 1
    fi
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo 'install rustup, which gets the Rust toolchain (https://rustup.rs; Debian 13: apt-get install rustup)' >&2
    exit 1
fi
# rustup makes `cargo` install what rust-toolchain.toml names; some releases want to be told.
cargo --version >/dev/null 2>&1 || rustup toolchain install >&2
