#!/usr/bin/env bash
# Fuzzes the guard, the session, topic filters and the client library for FOREBAY_FUZZ_SECONDS each (default 10), from the corpus in
# broker/fuzz/corpus; what is found lands in a scratch folder and is shown. Ends with a line of counts in cargo's form.
#   tests/fuzz.sh [TARGET...]     all four without an argument
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=${FOREBAY_FUZZ_SECONDS:-10}
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(guard session filters client)
scratch=$(mktemp -d)
# cargo-fuzz cannot be told `--locked`: a lock file that it had to change is put back.
cp broker/fuzz/Cargo.lock "$scratch/Cargo.lock"
trap 'cmp -s "$scratch/Cargo.lock" broker/fuzz/Cargo.lock || cp "$scratch/Cargo.lock" broker/fuzz/Cargo.lock; rm -rf "$scratch"' EXIT
passed=0 failed=0

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

# The broker's own code has no unsafe block: the sanitizer costs more than it finds here. `cargo +nightly fuzz run` in
# broker/ has it on.
fuzz() {
    (cd broker && cargo +nightly fuzz "$1" --sanitizer none --target-dir "$OLDPWD/target/fuzz" "${@:2}")
}

if ! fuzz build >"$scratch/build" 2>&1; then
    tail -n 40 "$scratch/build"
    failed=${#targets[@]}
    finish 0
fi
for target in "${targets[@]}"; do
    mkdir -p "$scratch/$target/artifacts"
    cp -r "broker/fuzz/corpus/$target" "$scratch/$target/corpus"
    if fuzz run "$target" "$scratch/$target/corpus" -- -max_total_time="$seconds" -timeout=30 \
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
