#!/usr/bin/env bash
# What the client costs a microcontroller, for each feature set, and what others cost for the same firmware:
#   probe/size.sh            prints the table
#   probe/size.sh --check    fails when docs/firmware-size.md says something else, when a limit is passed, or when a panic is
#                            linked into the client
#   probe/size.sh --write    writes the table into docs/firmware-size.md
# Flash and static RAM are the linker's; the stack is painted and looked at after a run in QEMU (without it, it is left out).
set -eu
cd "$(dirname "$0")"
mode=${1:-}
target=thumbv7em-none-eabihf
document=../../docs/firmware-size.md
export CARGO_TARGET_DIR="$PWD/../../target/probe"
rustup target add "$target" >/dev/null 2>&1 || true
status=0
measured=$(mktemp)
trap 'rm -f "$measured"' EXIT

# build FOLDER FEATURES: the path of the program.
build() {
    cargo build -q --locked --release --target "$target" --no-default-features --features "$2" --manifest-path "$1/Cargo.toml"
    case $1 in
    others) echo "$CARGO_TARGET_DIR/$target/release/forebay-firmware-probe-others" ;;
    *) echo "$CARGO_TARGET_DIR/$target/release/forebay-firmware-probe" ;;
    esac
}

# row NAME FOLDER FEATURES: a line of the table, and in $flash, $state and $panics what the limits are about.
row() {
    local program sizes stack=-
    program=$(build "$2" "$3")
    sizes=$(size "$program" | awk 'NR == 2 { print $1 + $2, $2 + $3 }')
    flash=${sizes% *} state=-
    panics=$(nm -C "$program" | grep -cE 'core::panicking|unwrap_failed|slice_index' || true)
    if command -v qemu-system-arm >/dev/null && [ "${3%%,*}" != empty ]; then
        program=$(build "$2" "$3,run$([ "$2" = . ] && echo ,reconnects)")
        read -r _ state _ stack < <(timeout 60 qemu-system-arm -M mps2-an386 -nographic \
            -semihosting-config enable=on,target=native -kernel "$program" </dev/null)
    fi
    echo "| $1 | $flash | ${sizes#* } | $state | $stack | $([ "$panics" -gt 0 ] && echo yes || echo no) |" | tee -a "$measured"
}

# limited FEATURES FLASH: a row of this client; 0 is no limit.
limited() {
    row "\`$1\`" . "$1"
    if [ "$panics" -gt 0 ]; then echo "$1: a panic is linked" && status=1; fi
    if [ "$2" -gt 0 ] && [ "$flash" -gt "$2" ]; then echo "$1: more than $2 bytes of flash" && status=1; fi
    if [ "$state" != - ] && [ "$state" -gt 512 ]; then echo "$1: more than 512 bytes of state" && status=1; fi
}

# table FILE: the rows of a document, without alignment.
table() { grep '^| ' "$1" | grep -v '^| firmware' | sed 's/  */ /g'; }

# compare: flash and RAM may be 64 bytes off, the rest 128 (another compiler); what is not measured here is not compared.
compare() {
    awk -F ' *[|] *' '
        NR == FNR { for (i = 3; i <= 7; i++) said[$2, i] = $i; rows[$2]; next }
        !($2 in rows) { print $2 ": not in the document"; bad = 1; next }
        {
            for (i = 3; i <= 7; i++) {
                if ($i == "-") continue
                off = said[$2, i] - $i
                if (off < 0) off = -off
                if (i == 7 ? said[$2, i] != $i : off > (i < 5 ? 64 : 128)) {
                    print $2 ": the document says " said[$2, i] ", measured " $i; bad = 1
                }
            }
        }
        END { exit bad }' <(table "$document") <(table "$measured")
}

row "nothing" . "empty,v3"
limited v3 12288
limited v5 16384
limited v3,v5 0
limited v3,qos2 0
limited v5,qos2 0
limited v3,v5,qos2 0
row "nothing, with an executor and a clock" others empty
row "minimq 0.13.5, MQTT 5" others minimq
row "rust-mqtt 0.6.0, MQTT 5" others rust-mqtt-v5
row "mqttrust 1.0.0, MQTT 3.1.1" others mqttrust-v3
row "mqttrust 1.0.0, MQTT 5" others mqttrust-v5

case $mode in
--check) compare || status=1 ;;
--write)
    awk -v rows="$measured" '
        /^<!-- begin/ { print; print "| firmware | flash | static RAM | state | stack | panics |"; print "|---|---|---|---|---|---|"
            while ((getline line < rows) > 0) print line; skip = 1 }
        /^<!-- end/ { skip = 0 }
        !skip { print }' "$document" >"$document.new" && mv "$document.new" "$document"
    ;;
esac
exit $status
