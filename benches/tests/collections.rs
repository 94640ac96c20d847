//! The benchmark of the collections runs: on few entries and without peers here, so that it does not rot.

use std::process::Command;

#[test]
fn every_workload_of_the_collections_has_its_figures() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_bartender-benches"))
        .args(["collections", "--quick", "--n", "2000", "--rounds", "1"])
        .current_dir(folder.path())
        .env("BARTENDER_BENCH_DIR", folder.path())
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let table = folder.path().join("target/bench/collections.csv");
    let table = std::fs::read_to_string(table).expect("a table");
    for workload in [
        "reading: look up in a hash map",
        "reading: iterate over a vector",
        "reading: iterate over a deque",
        "reading: ranges of 100 in an ordered map",
        "one transaction: words; shared memory",
        "one transaction: texts; disk",
        "one transaction: words; again; disk",
        "point reads; shared memory",
        "single commits; shared memory",
        "single commits; disk",
        "opening after a kill: 2000 words; shared memory",
        "opening after a kill: 20000 words; disk",
        "marking after a kill: 20000 texts; shared memory",
        "space of a map of words",
    ] {
        let row = table.lines().find(|row| {
            row.starts_with(&format!("{workload},"))
                && (row.contains(",P") || row.contains(",single commit"))
        });
        assert!(row.is_some(), "no figure of {workload}:\n{table}");
    }
}
