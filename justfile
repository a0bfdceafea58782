# The verbs of daily work. Each is one command that also works without just.

_default:
    @just --list --unsorted

# Everything that CI runs: format, lint, tests, release build, demo
verify:
    .ci/run

# Format, and apply what clippy can mend by itself
fix:
    cargo fmt --all
    cargo clippy --fix --allow-dirty --allow-staged --workspace --all-targets
    cargo fmt --all

# Three clusters on this machine; `just demo --check` runs the scripted tour
demo *ARGS:
    cargo build --release -p isthmus -p isthmus-proxy
    target/release/isthmus demo {{ARGS}}

# The simulation from one seed, told as it goes
sim SEED:
    SIM_SEED={{SEED}} SIM_ALOUD=1 cargo test --release -p isthmus-federation --test simulation no_seed -- --nocapture

# Many seeds, as a nightly run
sim-nightly SEEDS="500":
    SIM_SEEDS={{SEEDS}} cargo test --release -p isthmus-federation --test simulation no_seed -- --nocapture

# 200 clusters of 50 exports for an hour of virtual time
sim-hour:
    cargo test --release -p isthmus-federation --test simulation two_hundred -- --ignored --nocapture

# As many inputs as come within the time that `just fuzz` is given
inputs := "BOLERO_RANDOM_ITERATIONS=1000000000000"

# Fuzz targets, so many seconds for each test of them: all, or one (docs/fuzzing.md)
fuzz TARGET="" SECONDS="60":
    {{inputs}} BOLERO_RANDOM_TEST_TIME_MS={{SECONDS}}000 cargo test -p isthmus --test fuzz -- {{TARGET}} --nocapture
    {{inputs}} BOLERO_RANDOM_TEST_TIME_MS={{SECONDS}}000 cargo test -p isthmus-sources --lib -- document::{{TARGET}} --nocapture

# Figures: how soon it is ready, how fast changes travel, what a lost region costs, what distance costs, what it weighs, what trust costs; `just bench ready` runs one
bench *NAMES:
    cargo build --release -p isthmus-proxy
    cargo bench -p isthmus -p isthmus-identity {{prepend('--bench ', NAMES)}}

# Mixed load for so many minutes while something always comes or goes: what grows, and what fails that should not (docs/benchmarks.md)
soak MINUTES="10":
    cargo bench -p isthmus --bench soak -- {{MINUTES}}

# The data plane beside Envoy, HAProxy and nginx, whichever are installed (docs/benchmarks.md); `just bench-peers pair hop` runs some
bench-peers *ARGS:
    cargo build --release -p isthmus-proxy
    cargo bench -p isthmus --bench peers -- {{ARGS}}
