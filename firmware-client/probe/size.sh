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
measured=$(mktemp) futures=$(mktemp)
trap 'rm -f "$measured" "$futures"' EXIT

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

# future_sizes FEATURES: a name and bytes for each future; in the program each is a symbol as long as the future.
future_sizes() {
    cargo build -q --locked --release --target "$target" --no-default-features --features "$1,futures" \
        --bin forebay-firmware-probe-futures
    nm -S "$CARGO_TARGET_DIR/$target/release/forebay-firmware-probe-futures" | awk '
        match($4, /forebay_firmware_probe_futures[0-9]+[A-Z_]+17h/) {
            name = substr($4, RSTART, RLENGTH - 3); sub(/^forebay_firmware_probe_futures[0-9]+/, "", name)
            print tolower(name), $2 }' | sort | while read -r name hex; do echo "$name $((16#$hex))"; done
}

# The futures that each feature set brings, in a column each.
all_futures() {
    join <(future_sizes v3) <(future_sizes v5) | join - <(future_sizes v3,v5,qos2) |
        awk '{ sub(/_flash$/, "` with `flash", $1); print "| `" $1 "` | " $2 " | " $3 " | " $4 " |" }' | tee "$futures"
}

# table FILE NAME: the rows of a table in the document, or of a file that has no others, without alignment.
table() {
    awk -v name="$2" '/^<!-- begin/ { inside = $3 == name ":" } name == "" { inside = 1 } /^<!-- end/ { inside = 0 }
        inside && /^[|] / && !/^[|] (firmware|future) / { gsub(/  */, " "); print }' "$1"
}

# compare FILE NAME: the first two figures may be 64 bytes off, others 128 (another compiler), and words must be the same; what
# is not measured here is not compared.
compare() {
    awk -F ' *[|] *' '
        NR == FNR { for (i = 3; i < NF; i++) said[$2, i] = $i; rows[$2]; next }
        !($2 in rows) { print $2 ": not in the document"; bad = 1; next }
        {
            for (i = 3; i < NF; i++) {
                if ($i == "-") continue
                off = said[$2, i] - $i
                if (off < 0) off = -off
                if ($i + 0 == $i && said[$2, i] != "" ? off > (i < 5 ? 64 : 128) : said[$2, i] != $i) {
                    print $2 ": the document says " said[$2, i] ", measured " $i; bad = 1
                }
            }
        }
        END { exit bad }' <(table "$document" "$2") <(table "$1" "")
}

# insert FILE NAME HEADER: puts rows into the document.
insert() {
    awk -v rows="$1" -v name="$2:" -v header="$3" '
        /^<!-- begin/ && $3 == name {
            print; print header; gsub(/[^|]+/, "---", header); print header
            while ((getline line < rows) > 0) print line; skip = 1 }
        /^<!-- end/ { skip = 0 }
        !skip { print }' "$document" >"$document.new" && mv "$document.new" "$document"
}

row "nothing" . "empty,v3"
limited v3 12288
limited v5 16384
limited v3,v5 0
limited v3,qos2 0
limited v5,qos2 0
limited v3,v5,qos2 0
row "nothing, with an executor and a clock" others empty
row "\`v3\` as a task" others forebay-v3
row "\`v5\` as a task" others forebay-v5
row "minimq 0.13.5, MQTT 5" others minimq
row "rust-mqtt 0.6.0, MQTT 5" others rust-mqtt-v5
row "mqttrust 1.0.0, MQTT 3.1.1" others mqttrust-v3
row "mqttrust 1.0.0, MQTT 5" others mqttrust-v5

all_futures

case $mode in
--check)
    compare "$measured" firmware || status=1
    compare "$futures" futures || status=1
    ;;
--write)
    insert "$measured" firmware "| firmware | flash | static RAM | state | stack | panics |"
    insert "$futures" futures '| future | `v3` | `v5` | `v3,v5,qos2` |'
    ;;
esac
exit $status
