//! `buf lint` has nothing to say about the contracts in `proto/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tidy::root;

/// Fails with what the program says. Returns it otherwise.
fn run(folder: &Path, program: impl Into<PathBuf>, arguments: &[&str]) -> String {
    let program = program.into();
    let output = Command::new(&program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; ./stampede soak installs it", program.display()));
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{} {arguments:?}: {}\n{said}", program.display(), output.status);
    said
}

#[test]
#[ignore = "soak: installs a linter"]
fn buf_finds_nothing_in_the_contracts_and_finds_what_lacks_a_comment() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("buf");
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("the folder can be made");
    for file in ["package.json", "package-lock.json"] {
        fs::copy(root().join("crates/stampede/tests/buf").join(file), folder.join(file)).expect("it is there");
    }
    run(&folder, "npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    let buf = folder.join("node_modules/.bin/buf");
    assert_eq!(run(&root().join("proto"), &buf, &["lint"]), "");

    // The rules are in force: a message without a comment is found.
    let other = folder.join("other/a/v1");
    fs::create_dir_all(&other).expect("the folder can be made");
    fs::copy(root().join("proto/buf.yaml"), folder.join("other/buf.yaml")).expect("it is there");
    fs::write(other.join("a.proto"), "syntax = \"proto3\";\npackage a.v1;\nmessage A {}\n").expect("it can be written");
    let output = Command::new(&buf).arg("lint").current_dir(folder.join("other")).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("non-empty comment") && said.lines().count() == 1, "{said}");
}
