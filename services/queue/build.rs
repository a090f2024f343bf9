//! Embedded migrations are part of the program: a changed one means a changed program.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/queue");
}
