//! Nothing. A dev-dependency of every crate: its own dependencies name features, so that `cargo test -p CRATE` compiles third-party
//! crates with the same ones as the whole workspace, and finds them compiled. Releases are built without dev-dependencies, and so with
//! what each function needs alone. A test compares the two (tests/it/features.rs).
