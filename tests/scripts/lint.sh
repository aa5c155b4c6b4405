#!/usr/bin/env bash
# rustfmt, clippy with warnings denied, bans, licences, shellcheck.
set -euo pipefail

cargo fmt --all --check
cargo clippy --workspace --all-targets --features "$TROVE_TEST_FEATURES" -- -D warnings

# One TLS stack, one time library: these must not come in through any dependency.
for banned in aws-lc-rs aws-lc-sys openssl-sys native-tls chrono; do
    if cargo tree --workspace --quiet -i "$banned" --edges normal,build 2>/dev/null | grep -q .; then
        echo "lint: the crate $banned is banned and came in through:" >&2
        cargo tree --workspace -i "$banned" >&2
        exit 1
    fi
done

# An agent for one engine links one engine.
linked=$(cargo tree --package trove-agent --no-default-features --features redis --edges normal,build --prefix none)
if grep -E '^(trove-mongodb|bson|trove-mysql|mysql_async|trove-postgresql|tokio-postgres) ' <<<"$linked"; then
    echo "lint: the agent for redis alone links the above" >&2
    exit 1
fi

# Licences of everything that is linked; a choice ("MIT OR …") needs one alternative of the list.
cargo metadata --format-version 1 --locked | python3 -c '
import json, re, sys
allowed = {"MIT", "MIT-0", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC", "BSD-2-Clause", "BSD-3-Clause",
           "Unicode-3.0", "Zlib", "BSL-1.0", "CC0-1.0", "Unlicense", "0BSD", "CDLA-Permissive-2.0"}
def ok(text):
    text = text.replace("/", " OR ").strip()
    depth, parts = 0, {"OR": [], "AND": []}
    for operator in ("OR", "AND"):
        depth, start, pieces = 0, 0, []
        for match in re.finditer(r"[()]| %s " % operator, text):
            token = match.group()
            depth += {"(": 1, ")": -1}.get(token, 0)
            if depth == 0 and token not in "()":
                pieces.append(text[start:match.start()]); start = match.end()
        pieces.append(text[start:])
        if len(pieces) > 1:
            return (any if operator == "OR" else all)(ok(piece) for piece in pieces)
    if text.startswith("(") and text.endswith(")"):
        return ok(text[1:-1])
    return text in allowed
bad = [(p["name"], p["license"]) for p in json.load(sys.stdin)["packages"] if not ok(p["license"] or "none")]
for name, licence in bad:
    print(f"lint: the licence of {name} is not on the list: {licence}", file=sys.stderr)
sys.exit(bool(bad))
'

if command -v shellcheck >/dev/null; then
    {
        git ls-files '*.sh' .ci/run
        # The phases of elements have names without an ending; they are programs, or are read by bash.
        git ls-files --stage dib-elements | sed -n 's/^100755 .*\t//p'
        git ls-files 'dib-elements/*.bash'
    } | xargs -r shellcheck
else
    echo "lint: shellcheck is not installed (make setup installs it)" >&2
    exit 1
fi
