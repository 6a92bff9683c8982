#!/usr/bin/env bash
# Fuzzes the broker (guard, session, filters, websocket, proxy, acl, jwt, scram), the client library (client) and the firmware client (receive, core, import)
# for FOREBAY_FUZZ_SECONDS each (default 10), from the corpus beside the targets; what is found lands in a scratch folder
# and is shown. Ends with a line of counts in cargo's form.
#   tests/fuzz.sh [TARGET...]     all of them without an argument
#   tests/fuzz.sh --build         only builds them
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=${FOREBAY_FUZZ_SECONDS:-10}
packages=(broker firmware-client)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0

# What there is, and the package that has it.
declare -A home
for package in "${packages[@]}"; do
    for file in "$package"/fuzz/targets/*.rs; do home[$(basename "$file" .rs)]=$package; done
done
only_build=no
if [ "${1:-}" = --build ]; then
    only_build=yes
    shift
fi
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || readarray -t targets < <(printf '%s\n' "${!home[@]}" | sort)
for target in "${targets[@]}"; do
    if [ -z "${home[$target]:-}" ]; then
        echo "there is no target $target"
        exit 1
    fi
done

# cargo-fuzz cannot be told `--locked`: a lock file that it had to change is put back.
for package in "${packages[@]}"; do cp "$package/fuzz/Cargo.lock" "$scratch/$package.lock"; done
put_back() {
    for package in "${packages[@]}"; do
        cmp -s "$scratch/$package.lock" "$package/fuzz/Cargo.lock" || cp "$scratch/$package.lock" "$package/fuzz/Cargo.lock"
    done
}
trap 'put_back; rm -rf "$scratch"' EXIT

finish() {
    local word=ok
    [ "$failed" -eq 0 ] || word=FAILED
    echo "test result: $word. $passed passed; $failed failed; $1 ignored"
    [ "$failed" -eq 0 ]
    exit
}

# skip REASON: not a failure, unless CI=true and tests/known-absences does not know the reason.
skip() {
    echo "SKIP fuzz: $1"
    if [ "${CI:-}" = true ] && ! grep -qxF "fuzz: $1" tests/known-absences; then
        failed=${#targets[@]}
        finish 0
    fi
    finish "${#targets[@]}"
}

cargo +nightly --version >/dev/null 2>&1 || skip "no nightly toolchain"
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "installing cargo-fuzz with cargo install"
    cargo install --quiet --locked cargo-fuzz >"$scratch/install" 2>&1 || { tail -n 5 "$scratch/install"; skip "no cargo-fuzz"; }
fi

# fuzz PACKAGE COMMAND...: what is fuzzed has no unsafe block, so the sanitizer costs more than it finds here.
# `cargo +nightly fuzz run` in the package has it on.
fuzz() {
    (cd "$1" && cargo +nightly fuzz "$2" --sanitizer none --target-dir "$OLDPWD/target/fuzz" "${@:3}")
}

if [ "$only_build" = yes ]; then
    for package in "${packages[@]}"; do fuzz "$package" build; done
    exit
fi
for target in "${targets[@]}"; do
    package=${home[$target]}
    mkdir -p "$scratch/$target/artifacts"
    cp -r "$package/fuzz/corpus/$target" "$scratch/$target/corpus"
    if fuzz "$package" run "$target" "$scratch/$target/corpus" -- -max_total_time="$seconds" -timeout=30 \
        -artifact_prefix="$scratch/$target/artifacts/" >"$scratch/$target/log" 2>&1; then
        passed=$((passed + 1))
        runs=$(grep -oE 'Done [0-9]+ runs' "$scratch/$target/log" | grep -oE '[0-9]+')
        echo "ok    fuzz $target: ${runs:-no} runs"
    else
        failed=$((failed + 1))
        echo "FAIL  fuzz $target"
        tail -n 60 "$scratch/$target/log"
        for input in "$scratch/$target/artifacts"/*; do
            [ -f "$input" ] && echo "the input, in base64: $(base64 -w 0 "$input")"
        done
    fi
done
finish 0
