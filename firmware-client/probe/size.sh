#!/usr/bin/env bash
# What the client costs in flash, for each feature set: `probe/size.sh`. The first line is the same firmware without it
# (the vector table is 1,024 bytes). Says so when a panic is linked, or when a limit is passed.
set -eu
cd "$(dirname "$0")"
target=thumbv7em-none-eabihf
rustup target add "$target" >/dev/null 2>&1 || true
status=0
for row in "empty,v3 0" "v3 12288" "v5 16384" "v3,v5 0" "v3,qos2 0" "v5,qos2 0" "v3,v5,qos2 0"; do
    features=${row% *} most=${row#* }
    CARGO_TARGET_DIR="$PWD/../../target/probe" cargo build -q --release --target "$target" --no-default-features --features "$features"
    program="../../target/probe/$target/release/forebay-firmware-probe"
    bytes=$(size "$program" | awk 'NR == 2 { print $1 + $2 }')
    panics=$(nm -C "$program" | grep -cE 'core::panicking|unwrap_failed|slice_index' || true)
    printf '%-12s %6d bytes of flash, %d panics\n' "$features" "$bytes" "$panics"
    if [ "$panics" -gt 0 ] || { [ "$most" -gt 0 ] && [ "$bytes" -gt "$most" ]; }; then status=1; fi
done
exit $status
