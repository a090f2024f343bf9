//! `buf` has nothing to say about the contracts in `proto/`: they are written as its rules ask for, and their last change
//! breaks no reader.

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

/// The program, in a new folder called `name`.
fn installed(name: &str) -> (PathBuf, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("the folder can be made");
    for file in ["package.json", "package-lock.json"] {
        fs::copy(root().join("crates/stampede/tests/buf").join(file), folder.join(file)).expect("it is there");
    }
    run(&folder, "npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    let buf = folder.join("node_modules/.bin/buf");
    (folder, buf)
}

#[test]
#[ignore = "soak: installs a linter"]
fn buf_finds_nothing_in_the_contracts_and_finds_what_lacks_a_comment() {
    let (folder, buf) = installed("buf");
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

/// Old events stay in Kafka, and old processes run beside new ones: what was written before the last change of the contracts is
/// read after it, and the other way round.
#[test]
#[ignore = "soak: installs a linter"]
fn the_last_change_of_the_contracts_breaks_no_reader_and_a_change_that_does_is_found() {
    let (folder, buf) = installed("buf_breaking");
    let is_shallow = run(&root(), "git", &["rev-parse", "--is-shallow-repository"]);
    assert_eq!(is_shallow.trim(), "false", "there is nothing to compare with: run `git fetch --unshallow`");
    let last_change = run(&root(), "git", &["log", "-1", "--format=%H", "--", "proto"]);
    // What is not committed yet is a change as well.
    for (name, commit) in [("before", format!("{}~1", last_change.trim())), ("committed", "HEAD".to_owned())] {
        let archive = folder.join(format!("{name}.tar")).display().to_string();
        run(&root(), "git", &["archive", "--output", &archive, &commit, "proto"]);
        fs::create_dir(folder.join(name)).expect("the folder can be made");
        run(&folder.join(name), "tar", &["-xf", &archive]);
        let against = folder.join(name).join("proto").display().to_string();
        assert_eq!(run(&root().join("proto"), &buf, &["breaking", "--against", &against]), "", "{commit}");
    }

    // The rule is in force: a field that has another name in JSON is found.
    let changed = folder.join("before/proto/stampede/events/v1/events.proto");
    let text = fs::read_to_string(&changed).expect("the events are there");
    assert!(text.contains(" order_id = "), "{}", changed.display());
    fs::write(&changed, text.replacen(" order_id = ", " order_number = ", 1)).expect("it can be written");
    let before = folder.join("before/proto").display().to_string();
    let broken = Command::new(&buf).args(["breaking", "--against", &before]).current_dir(root().join("proto")).output();
    let broken = broken.expect("it runs");
    let said = String::from_utf8_lossy(&broken.stdout);
    assert!(!broken.status.success() && said.contains("order_id") && said.lines().count() <= 2, "{said}");
}
