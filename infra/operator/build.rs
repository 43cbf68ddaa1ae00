//! A migration that is added is built in, too: of a file that is new, the compiler alone would not notice.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
